"""One decoder layer, forward and backward by hand.

    n₁ = norm₁(x)        q, k, v = rope(n₁ W_qkv)        a = attention(q, k, v) W_o        h = x + a
    n₂ = norm₂(h)        g, u = n₂ W_gate_up             y = h + (silu(g) · u) W_down

A projection group is dequantised right before it is used and dropped right after, except when a layer is run again just ahead of its
backward pass: then its weights are kept for that (``Plan.hold_weights``), and dequantised once instead of twice. No tensor outlives its
last use: what the backward pass has read is taken out of ``Saved``, gradients are written over the activations they belong to, and where
a group's gradient asks for its input (a norm's or SwiGLU's output), the backward kernel of that norm or SwiGLU makes it again in passing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

import torch
from torch import Tensor

from papertune.kernels import ops
from papertune.train.fast.packing import Packed
from papertune.train.fast.plan import Plan
from papertune.train.fast.projections import Dropout, Group
from papertune.train.fast.shape import Shape


class Save(Enum):
    """What a forward pass leaves for the backward pass: nothing; all but the MLP's; all that costs multiplications to make again; or that and
    weights, when that follows."""

    NOTHING = auto()
    ATTENTION = auto()
    COSTLY = auto()
    WEIGHTS = auto()


@dataclass(slots=True)
class Saved:
    """What the backward pass reads. Widths: hidden H, inner F, LoRA columns of a group R; T tokens.

    x, h: (T, H); qkv: (T, queries + 2 · keys + R), rotated; attended: (T, queries); log_sum: (heads, T) float32; gate_up: (T, 2F + R); u_*: (T, R);
    r1, r2: (T) float32. The last R columns of qkv and gate_up are room for the backward pass. ``weights`` is filled by Save.WEIGHTS, in the order
    of the forward pass. r2, gate_up and the MLP's u's are absent where the MLP is run again.
    """

    x: Tensor | None
    qkv: Tensor | None
    attended: Tensor | None
    h: Tensor | None
    log_sum: Tensor
    r1: Tensor
    u_qkv: Tensor
    u_out: Tensor
    r2: Tensor | None = None
    u_gate_up: Tensor | None = None
    u_down: Tensor | None = None
    gate_up: Tensor | None = None
    weights: list[Tensor] = field(default_factory=list)

    def take(self, name: str) -> Tensor:
        """The tensor, which is then no longer held here."""
        tensor = getattr(self, name)
        setattr(self, name, None)
        assert isinstance(tensor, Tensor), name
        return tensor

    def weights_of(self, group: Group) -> Tensor:
        """Those kept for the backward pass, which asks in the opposite order, else dequantised again."""
        return self.weights.pop() if self.weights else group.weights()


@dataclass(slots=True)
class _Attended:
    """What the first half of a layer makes, as in Saved."""

    h: Tensor
    qkv: Tensor | None
    attended: Tensor | None
    u_qkv: Tensor
    u_out: Tensor
    log_sum: Tensor
    r1: Tensor


class Layer:
    """``norm1`` and ``norm2``: (H); groups as in ``flat.GROUPS``."""

    def __init__(self, shape: Shape, norm1: Tensor, norm2: Tensor, groups: list[Group], dropout: float) -> None:
        self._shape, self._norm1, self._norm2, self._share = shape, norm1, norm2, dropout
        self.groups = groups
        self._qkv, self._out, self._gate_up, self._down = groups

    def stay(self, on: bool) -> None:
        """See ``Group.stay``."""
        for group in self.groups:
            group.stay(on)

    def lend(self, weights: Iterable[Tensor]) -> None:
        """See ``Group.lend``; those of all groups, in order."""
        for group, lent in zip(self.groups, weights, strict=True):
            group.lend(lent)

    @property
    def spare(self) -> int:
        """Columns that the gradient of the layer's output must have beside its own."""
        return max(self._out.columns, self._down.columns)

    def forward(self, x: Tensor, batch: Packed, plan: Plan, save: Save, *, train: bool = True) -> tuple[Tensor, Saved | None]:
        """y (T, H) and what ``save`` asks for; with Save.WEIGHTS y is empty, because only the backward pass follows."""
        weights: list[Tensor] = []
        kept = weights if save is Save.WEIGHTS and plan.hold_weights else None
        dropout = Dropout(batch.keys, self._share if train else 0.0)
        half = self._attend(x, batch, dropout, save, kept)
        h, saved = half.h, None
        if save is not Save.NOTHING:
            saved = Saved(x, half.qkv, half.attended, h, half.log_sum, half.r1, half.u_qkv, half.u_out, weights=weights)
        del half
        rows = 0 if save is Save.COSTLY else plan.rows(len(x))
        if rows and save is Save.WEIGHTS:
            return x.new_empty(0), saved
        if rows:
            return self._mlp_in_parts(h if saved is None else h.clone(), dropout, rows), saved
        y = torch.empty_like(h) if save in (Save.ATTENTION, Save.COSTLY) else None
        gate_up, u_gate_up, r2 = self._projected(self._gate_up, h, self._norm2, self._weights(self._gate_up, kept), dropout, y)
        mlp = saved if save in (Save.COSTLY, Save.WEIGHTS) else None
        if mlp is not None:
            mlp.gate_up, mlp.u_gate_up, mlp.r2 = gate_up, u_gate_up, r2
        activated = self._down.input(len(x))
        fed = ops.swiglu(gate_up, activated.x, self._down.mask(dropout))
        del gate_up
        narrow = self._down.weights()
        self._down.lower(activated, fed, narrow)
        del fed
        if mlp is not None:
            mlp.u_down = activated.u.clone()
        if save is Save.WEIGHTS:
            weights.append(narrow)  # the first that the backward pass asks for
            return x.new_empty(0), saved
        return self._down.add(activated, narrow, h if y is None else y), saved

    def backward(self, dy: Tensor, saved: Saved, batch: Packed, plan: Plan, bring_x: Callable[[], Tensor] | None = None) -> Tensor:
        """The gradient in x over that in y: the first H columns of ``dy`` (T, H + spare). Adds to the LoRA weights' and uses ``saved`` up.

        ``bring_x`` fetches x after the backward pass of attention, which needs memory most; without it x is in ``saved``.
        """
        dropout = Dropout(batch.keys, self._share)
        if saved.gate_up is None:
            self._mlp_backward_in_parts(dy, saved.take("h"), dropout, plan.rows(len(dy)) or len(dy))
        else:
            us = saved.take("u_gate_up"), saved.take("u_down")
            self._mlp_backward(dy, saved.take("h"), saved.take("r2"), saved.take("gate_up"), us, dropout, saved.weights_of)
        attended, mask = saved.take("attended"), self._out.mask(dropout)
        d_heads = self._out.backward(dy, saved.weights_of(self._out), mask)
        self._out.gather(dy, ops.dropout(attended, mask), saved.u_out)
        d_qkv = saved.take("qkv")
        self._attention_backward(d_heads, d_qkv, attended, saved.log_sum, batch, plan.head_groups)
        del d_heads, attended
        x = saved.take("x") if bring_x is None else bring_x()
        mask = self._qkv.mask(dropout)
        dn = self._qkv.backward(d_qkv, saved.weights_of(self._qkv), mask)
        ops.rms_norm_backward_(dn, x, self._norm1, saved.r1, dy[:, : self._shape.hidden], mask)
        self._qkv.gather(d_qkv, dn, saved.u_qkv)
        return dy

    def _attend(self, x: Tensor, batch: Packed, dropout: Dropout, save: Save, kept: list[Tensor] | None) -> _Attended:
        shape, h = self._shape, torch.empty_like(x)
        qkv, u_qkv, r1 = self._projected(self._qkv, x, self._norm1, self._weights(self._qkv, kept), dropout, h)
        ops.rope_(qkv, batch.cos, batch.sin, shape.heads + shape.kv_heads)
        heads, log_sum = ops.attention(*self._split(qkv), batch.starts, batch.longest, shape.window)
        rotated = None if save is Save.NOTHING else qkv
        del qkv
        joined = self._out.input(len(x))
        fed = ops.put(heads.view(len(x), -1), joined.x, self._out.mask(dropout))
        attended = None if save is Save.NOTHING else heads.view(len(x), -1)
        del heads
        weights = self._weights(self._out, kept)
        self._out.lower(joined, fed, weights)
        del fed
        self._out.add(joined, weights, h)  # not a product that is rounded and then added: one rounding less
        return _Attended(h, rotated, attended, u_qkv, joined.u.clone(), log_sum, r1)

    def _weights(self, group: Group, kept: list[Tensor] | None) -> Tensor:
        weights = group.weights()
        if kept is not None:
            kept.append(weights)
        return weights

    def _projected(
        self, group: Group, x: Tensor, norm: Tensor, weights: Tensor, dropout: Dropout, copy: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The group's output for the normalised x, with the room for its backward pass also where none follows (products choose their order of
        addition by strides); a copy of its u, so that the rest of the buffer can go; and the norm's r. ``copy`` becomes x, to be added to."""
        joined = group.input(len(x))
        r, fed = ops.rms_norm(x, norm, self._shape.eps, joined.x, group.mask(dropout), copy)
        group.lower(joined, fed, weights)
        out = group.output(len(x))
        group.forward(joined, weights, out[:, : group.outputs])
        return out, joined.u.clone(), r

    def _mlp_in_parts(self, h: Tensor, dropout: Dropout, rows: int) -> Tensor:
        """y over ``h``'s memory, ``rows`` tokens at a time."""
        wide, narrow = self._gate_up.weights(), self._down.weights()
        for first in range(0, len(h), rows):
            part = slice(first, first + rows)
            some = Dropout(dropout.keys[part], dropout.share)
            gate_up = self._projected(self._gate_up, h[part], self._norm2, wide, some)[0]
            activated = self._down.input(len(gate_up))
            self._down.lower(activated, ops.swiglu(gate_up, activated.x, self._down.mask(some)), narrow)
            self._down.add(activated, narrow, h[part])
            del gate_up, activated
        return h

    def _mlp_backward(
        self, dy: Tensor, h: Tensor, r2: Tensor, gate_up: Tensor, us: tuple[Tensor, Tensor], dropout: Dropout, weights_of: Callable[[Group], Tensor]
    ) -> None:
        """Adds the MLP's gradient in h to ``dy``; ``us`` are the u's of gate_up and down."""
        mask = self._down.mask(dropout)
        d = self._down.backward(dy, weights_of(self._down), mask)
        ops.swiglu_backward_(d, gate_up, mask)
        self._down.gather(dy, d, us[1])
        del d
        mask = self._gate_up.mask(dropout)
        dn = self._gate_up.backward(gate_up, weights_of(self._gate_up), mask)
        ops.rms_norm_backward_(dn, h, self._norm2, r2, dy[:, : self._shape.hidden], mask)
        self._gate_up.gather(gate_up, dn, us[0])

    def _mlp_backward_in_parts(self, dy: Tensor, h: Tensor, dropout: Dropout, rows: int) -> None:
        """The same from the MLP's input on, ``rows`` tokens at a time."""
        wide, narrow = self._gate_up.weights(), self._down.weights()
        for first in range(0, len(dy), rows):
            part = slice(first, first + rows)
            some = Dropout(dropout.keys[part], dropout.share)
            gate_up, u_gate_up, r2 = self._projected(self._gate_up, h[part], self._norm2, wide, some)
            activated = self._down.input(len(gate_up))
            self._down.lower(activated, ops.swiglu(gate_up, activated.x, self._down.mask(some)), narrow)
            us = u_gate_up, activated.u.clone()
            del activated
            self._mlp_backward(dy[part], h[part], r2, gate_up, us, some, {self._gate_up: wide, self._down: narrow}.__getitem__)
            del gate_up

    def _attention_backward(self, d_heads: Tensor, qkv: Tensor, attended: Tensor, log_sum: Tensor, batch: Packed, groups: int) -> None:
        """``qkv`` becomes its own gradient, as it was before its rotation, ``groups`` sets of heads one after another."""
        shape = self._shape
        do, out = self._heads(d_heads), self._heads(attended)
        q, k, v = self._split(qkv)
        for i in range(groups):
            mine = slice(i * shape.heads // groups, (i + 1) * shape.heads // groups)
            shared = slice(i * shape.kv_heads // groups, (i + 1) * shape.kv_heads // groups)
            inputs = (do[:, mine], q[:, mine], k[:, shared], v[:, shared], out[:, mine], log_sum[mine].contiguous())
            ops.attention_backward_(*inputs, batch.starts, batch.longest, shape.window, batch.cos, batch.sin)

    def _heads(self, x: Tensor) -> Tensor:
        """(T, queries) as (T, heads, head), a view."""
        return x.view(len(x), self._shape.heads, self._shape.head)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views (T, heads, head), twice (T, kv_heads, head)."""
        shape = self._shape
        q, k, v = torch.split(qkv[:, : self._qkv.outputs], [shape.queries, shape.keys, shape.keys], dim=1)
        count = len(qkv)
        return q.view(count, shape.heads, shape.head), k.view(count, shape.kv_heads, shape.head), v.view(count, shape.kv_heads, shape.head)
