"""One decoder layer, forward and backward by hand.

    n₁ = norm₁(x)        q, k, v = rope(n₁ W_qkv)        a = attention(q, k, v) W_o        h = x + a
    n₂ = norm₂(h)        g, u = n₂ W_gate_up             y = h + (silu(g) · u) W_down

A projection group is dequantised right before it is used and dropped right after, except when a layer is run again just ahead of its
backward pass: then its weights are kept for that, and dequantised once instead of twice. No tensor outlives its last use: what the
backward pass has read is taken out of ``Saved``, and gradients are written over the activations they belong to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import torch
from torch import Tensor

from papertune.kernels import ops
from papertune.kernels.ops import AttentionState
from papertune.train.fast.packing import Packed
from papertune.train.fast.plan import Plan
from papertune.train.fast.projections import Dropout, Group, Joined
from papertune.train.fast.shape import Shape


class Save(Enum):
    """What a forward pass leaves for the backward pass: nothing; what costs multiplications to make again; or everything, weights too."""

    NOTHING = auto()
    COSTLY = auto()
    ALL = auto()


@dataclass(slots=True)
class Saved:
    """What the backward pass reads. Widths: hidden H, inner F, LoRA columns of a group R; T tokens.

    x, h: (T, H); qkv: (T, queries + 2 · keys), rotated; attended: (T, queries); gate_up: (T, 2F); u_*: (T, R); r1, r2: (T) float32.
    The last four are there only after Save.ALL: the groups' inputs, and their weights in the order of the forward pass.
    """

    x: Tensor | None
    qkv: Tensor | None
    attended: Tensor | None
    h: Tensor | None
    state: AttentionState
    r1: Tensor
    r2: Tensor
    u_qkv: Tensor
    u_out: Tensor
    u_gate_up: Tensor | None = None
    u_down: Tensor | None = None
    gate_up: Tensor | None = None
    n1: Tensor | None = None
    n2: Tensor | None = None
    activated: Tensor | None = None
    weights: list[Tensor] = field(default_factory=list)

    def take(self, name: str) -> Tensor:
        """The tensor, which is then no longer held here."""
        tensor = getattr(self, name)
        setattr(self, name, None)
        assert isinstance(tensor, Tensor), name
        return tensor


@dataclass(slots=True)
class _Attended:
    """What the first half of a layer makes, as far as it is asked for; ``projected`` (T, H) is what it adds to x."""

    projected: Tensor
    qkv: Tensor | None
    attended: Tensor | None
    n1: Tensor | None
    u_qkv: Tensor
    u_out: Tensor
    state: AttentionState
    r1: Tensor


class Layer:
    """``norm1`` and ``norm2``: (H); groups as in ``flat.GROUPS``."""

    def __init__(self, shape: Shape, norm1: Tensor, norm2: Tensor, groups: list[Group], dropout: float) -> None:
        self._shape, self._norm1, self._norm2, self._share = shape, norm1, norm2, dropout
        self._qkv, self._out, self._gate_up, self._down = groups

    @property
    def groups(self) -> tuple[Group, ...]:
        return self._qkv, self._out, self._gate_up, self._down

    def forward(self, x: Tensor, batch: Packed, plan: Plan, save: Save, *, train: bool = True) -> tuple[Tensor, Saved | None]:
        """y (T, H) and what ``save`` asks for; with Save.ALL y is empty, because only the backward pass follows."""
        weights: list[Tensor] = []
        kept = weights if save is Save.ALL else None
        dropout = Dropout(batch.keys, self._share if train else 0.0)
        half = self._attend(x, batch, dropout, save, kept)
        n2 = self._gate_up.input(len(x))
        h, r2 = ops.rms_norm(half.projected, self._norm2, self._shape.eps, n2.x, add=x)
        if save is Save.NOTHING:
            del half
            return self._mlp(n2, h, dropout, plan.mlp_rows), None
        saved = Saved(x, half.qkv, half.attended, h, half.state, half.r1, r2, half.u_qkv, half.u_out, n1=half.n1, weights=weights)
        del half
        if save is Save.ALL:
            saved.n2 = n2.x
            if plan.mlp_rows:  # memory is short: the first norm is cheap to make again
                saved.u_qkv, saved.n1 = saved.u_qkv.clone(), None
                return x.new_empty(0), saved
        saved.gate_up = self._project(self._gate_up, n2, dropout, kept)
        activated = self._down.input(len(x))
        ops.swiglu(saved.gate_up, activated.x)
        if save is Save.COSTLY:
            y = self._project(self._down, activated, dropout, None, add=h)
            saved.u_gate_up, saved.u_down = n2.u.clone(), activated.u.clone()
            return y, saved
        self._down.lower(activated, dropout)
        saved.u_gate_up, saved.u_down, saved.activated = n2.u, activated.u, activated.x
        return x.new_empty(0), saved

    def backward(self, dy: Tensor, saved: Saved, batch: Packed, plan: Plan, bring_x: Callable[[], Tensor] | None = None) -> Tensor:
        """dx (T, H), written over ``dy``. Adds to the gradients of the LoRA weights and uses ``saved`` up.

        ``bring_x`` fetches x after the backward pass of attention, which needs memory most; without it x is in ``saved``.
        """
        dropout = Dropout(batch.keys, self._share)
        weights = saved.weights
        if saved.gate_up is None:
            dn = self._mlp_backward_in_parts(dy, saved.take("n2"), dropout, plan.mlp_rows)
        else:
            dn = self._mlp_backward(dy, saved, dropout)
        ops.rms_norm_backward_(dn, saved.take("h"), self._norm2, saved.r2, dy)
        del dn
        attended = saved.take("attended")
        d_heads = self._out.backward(dy, attended, saved.u_out, weights.pop() if weights else self._out.weights(), dropout)
        d_qkv = self._attention_backward(d_heads, saved.take("qkv"), attended, saved.state, batch, plan.head_groups)
        del d_heads, attended
        ops.rope_(d_qkv, batch.cos, batch.sin, self._shape.heads + self._shape.kv_heads, backward=True)
        x = saved.take("x") if bring_x is None else bring_x()
        n1 = self._again(saved.n1, x, self._norm1)
        saved.n1 = None
        dn = self._qkv.backward(d_qkv, n1, saved.u_qkv, weights.pop() if weights else self._qkv.weights(), dropout)
        del d_qkv, n1
        ops.rms_norm_backward_(dn, x, self._norm1, saved.r1, dy)
        return dy

    def _attend(self, x: Tensor, batch: Packed, dropout: Dropout, save: Save, kept: list[Tensor] | None) -> _Attended:
        shape = self._shape
        n1 = self._qkv.input(len(x))
        _, r1 = ops.rms_norm(x, self._norm1, shape.eps, n1.x)
        qkv = self._project(self._qkv, n1, dropout, kept)
        # With Save.COSTLY the groups' inputs go, and their last columns are copied before.
        u_qkv, normed = (n1.u, n1.x) if save is Save.ALL else (n1.u.clone(), None)
        del n1
        ops.rope_(qkv, batch.cos, batch.sin, shape.heads + shape.kv_heads)
        heads, state = ops.attention(*self._split(qkv), batch.starts, batch.longest, shape.window)
        rotated = None if save is Save.NOTHING else qkv
        del qkv
        joined = self._out.input(len(x))
        joined.x.copy_(heads.view(len(x), -1))
        attended = heads.view(len(x), -1) if save is Save.COSTLY else joined.x
        del heads
        projected = self._project(self._out, joined, dropout, kept)
        u_out = joined.u if save is Save.ALL else joined.u.clone()
        return _Attended(projected, rotated, None if save is Save.NOTHING else attended, normed, u_qkv, u_out, state, r1)

    def _project(self, group: Group, joined: Joined, dropout: Dropout, kept: list[Tensor] | None, add: Tensor | None = None) -> Tensor:
        weights = group.weights()
        if kept is not None:
            kept.append(weights)
        return group.forward(joined, weights, dropout, add)

    def _mlp(self, n2: Joined, h: Tensor, dropout: Dropout, rows: int) -> Tensor:
        """y over ``h``'s memory, ``rows`` tokens at a time (0: all at once)."""
        if not rows:
            gate_up = self._project(self._gate_up, n2, dropout, None)
            activated = self._down.input(len(h))
            ops.swiglu(gate_up, activated.x)
            del gate_up
            self._down.lower(activated, dropout)
            return h.addmm_(activated.both, self._down.weights().T)
        wide, narrow = self._gate_up.weights(), self._down.weights()
        for first in range(0, len(h), rows):
            part = slice(first, first + rows)
            some = Dropout(dropout.keys[part], dropout.share)
            gate_up = self._gate_up.forward(Joined(*(t[part] for t in n2)), wide, some)
            activated = self._down.input(len(gate_up))
            ops.swiglu(gate_up, activated.x)
            self._down.lower(activated, some)
            h[part].addmm_(activated.both, narrow.T)
        return h

    def _mlp_backward(self, dy: Tensor, saved: Saved, dropout: Dropout) -> Tensor:
        gate_up, weights = saved.take("gate_up"), saved.weights
        activated = saved.activated
        saved.activated = None
        if activated is None:
            activated = gate_up.new_empty(len(gate_up), self._shape.inner)
            ops.swiglu(gate_up, activated)
        d = self._down.backward(dy, activated, saved.take("u_down"), self._down.weights(), dropout)
        del activated
        ops.swiglu_backward_(d, gate_up)
        del d
        assert saved.h is not None
        n2 = self._again(saved.n2, saved.h, self._norm2)
        saved.n2 = None
        return self._gate_up.backward(gate_up, n2, saved.take("u_gate_up"), weights.pop() if weights else self._gate_up.weights(), dropout)

    def _mlp_backward_in_parts(self, dy: Tensor, n2: Tensor, dropout: Dropout, rows: int) -> Tensor:
        """The MLP's forward and backward pass, ``rows`` tokens at a time."""
        wide, narrow = self._gate_up.weights(), self._down.weights()
        dn = torch.empty_like(dy)
        for first in range(0, len(dy), rows):
            part = slice(first, first + rows)
            some = Dropout(dropout.keys[part], dropout.share)
            joined = self._gate_up.input(len(dy[part]))
            joined.x.copy_(n2[part])
            gate_up = self._gate_up.forward(joined, wide, some)
            activated = self._down.input(len(gate_up))
            ops.swiglu(gate_up, activated.x)
            self._down.lower(activated, some)
            d = self._down.backward(dy[part], activated.x, activated.u, narrow, some)
            ops.swiglu_backward_(d, gate_up)
            dn[part] = self._gate_up.backward(gate_up, joined.x, joined.u, wide, some)
        return dn

    def _attention_backward(self, d_heads: Tensor, qkv: Tensor, attended: Tensor, state: AttentionState, batch: Packed, groups: int) -> Tensor:
        """The gradient of ``qkv`` in its place, ``groups`` sets of heads one after another."""
        shape = self._shape
        do, out = (t.view(len(t), shape.heads, shape.head) for t in (d_heads, attended))
        q, k, v = self._split(qkv)
        for i in range(groups):
            mine = slice(i * shape.heads // groups, (i + 1) * shape.heads // groups)
            shared = slice(i * shape.kv_heads // groups, (i + 1) * shape.kv_heads // groups)
            some = AttentionState(state.log_sum[mine].contiguous(), state.rest)
            inputs = (do[:, mine], q[:, mine], k[:, shared], v[:, shared], out[:, mine])
            dq, dk, dv = ops.attention_backward(*inputs, some, batch.starts, batch.longest, shape.window)
            q[:, mine], k[:, shared], v[:, shared] = dq, dk, dv
        return qkv

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views (T, heads, head), twice (T, kv_heads, head)."""
        shape = self._shape
        q, k, v = torch.split(qkv, [shape.queries, shape.keys, shape.keys], dim=1)
        count = len(qkv)
        return q.view(count, shape.heads, shape.head), k.view(count, shape.kv_heads, shape.head), v.view(count, shape.kv_heads, shape.head)

    def _again(self, normed: Tensor | None, z: Tensor, weight: Tensor) -> Tensor:
        """The normed input of a group: as saved, or made again."""
        if normed is not None:
            return normed
        out = torch.empty_like(z)
        ops.rms_norm(z, weight, self._shape.eps, out)
        return out
