"""The planner's sums against the tensors of a real pass: Mistral 7B's true widths on torch's meta device, where tensors have sizes and no numbers.

Kernels are replaced by what they allocate on a GPU, and the copies to host memory by their holding times; the rest is the engine itself.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from papertune.base import Base
from papertune.config import SEVEN_PROJECTIONS
from papertune.family import MISTRAL
from papertune.kernels import ops
from papertune.kernels.nf4 import NF4
from papertune.train.batches import TokenSequence
from papertune.train.fast import engine as fast
from papertune.train.fast.flat import GROUPS, sizes
from papertune.train.fast.host import AHEAD, Host, Parked
from papertune.train.fast.memory import Sizes, Work
from papertune.train.fast.plan import Plan
from papertune.train.fast.shape import shape_of
from papertune.train.model import Device

LAYERS, MULTIPROCESSORS = 5, 46
MIB = 1 << 20
CONFIG = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": LAYERS,
    "vocab_size": 32000, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip
PLANS = {
    "recompute": Plan(),
    "keep": Plan(keep=LAYERS),
    "keep some": Plan(keep=2),
    "offload": Plan(keep=1, offload=LAYERS - 1),
    "all three": Plan(keep=2, offload=2),
    "weights twice": Plan(hold_weights=False),
    "attention": Plan(attention=LAYERS),
    "attention, some": Plan(keep=1, attention=2),
    "attention, in parts": Plan(attention=2, mlp_rows=1024, head_groups=4, dequantised=1),
    "weights stay": Plan(keep=1, offload=2, dequantised=LAYERS),
    "some weights stay": Plan(keep=2, dequantised=2),
    "weights streamed": Plan(keep=2, offload=3, stream_every=1),
    "every second layer's weights streamed": Plan(keep=2, offload=3, stream_every=2),
    "weights streamed, all kept": Plan(keep=LAYERS, stream_every=1),
    "weights streamed, all run again": Plan(dequantised=1, stream_every=1),
    "weights streamed, MLP run again": Plan(keep=1, attention=4, dequantised=1, stream_every=1),
    "parked": Plan(park_inputs=True, loss_rows=256, hold_weights=False),
    "lean": Plan(park_inputs=True, mlp_rows=1024, loss_rows=256, head_groups=4, hold_weights=False),
}


@pytest.mark.parametrize("lengths", [[512] * 4, [512], [120, 180, 220, 300], [4096] * 2, [32768]], ids=str)
@pytest.mark.parametrize("plan", PLANS)
def test_the_foreseen_peak_is_that_of_the_tensors(plan: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for dropout, ordered in ((0.0, False), (0.05, True)):
        stand_in(monkeypatch, ordered=ordered)
        engine = make_engine(PLANS[plan], dropout)
        items = [TokenSequence(np.zeros(n, np.int32), 1, n) for n in lengths]
        with Made() as made:
            engine.accumulate(items, 1.0, 0)
        size = Sizes(engine.shape, 2, (48, 16, 32, 16), MULTIPROCESSORS if ordered else 0, dropout > 0)
        foreseen = size.peak(PLANS[plan], Work(sum(lengths), sum(lengths) - len(lengths), len(lengths)))
        assert foreseen / MIB == pytest.approx(made.peak / MIB, rel=0.005)


class Made(TorchDispatchMode):
    """Counts the bytes of the storages that are alive; ``peak`` is the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.is_meta and (storage := tensor.untyped_storage())._cdata not in before:
                self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return made


class Link(Host):
    """Without a GPU: a parked tensor is held until the next layer but ``AHEAD`` has ended, one called back is made anew."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._gone: deque[list[Tensor]] = deque()

    def park(self, _slot: str, tensor: Tensor) -> Parked:
        self._held.append(tensor)
        return Parked(torch.empty(tensor.shape, dtype=tensor.dtype))  # memory that nobody writes is none

    def end_layer(self) -> None:
        if self._held:
            self._gone.append(self._held)
            self._held = []
            while len(self._gone) > AHEAD:
                self._gone.popleft()

    def end_forward(self) -> None:
        self._gone.clear()

    def keep(self, tensor: Tensor) -> Parked:
        return Parked(torch.empty(tensor.shape, dtype=tensor.dtype))

    def call(self, parked: list[Parked]) -> None:
        for one in parked:
            one.device = torch.empty_like(one.host, device="meta")


def stand_in(patch: pytest.MonkeyPatch, *, ordered: bool) -> None:
    """Replaces each op by its allocations on a GPU; ``ordered``: as flash attention adds up when it must repeat its bits."""

    def attention(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(q), q.new_empty(q.shape[1], len(q), dtype=torch.float32)

    def attention_backward(_do: Tensor, q: Tensor, k: Tensor, _v: Tensor, _out: Tensor, _log_sum: Tensor, starts: Tensor, *_: Any) -> None:
        (count, heads, size), documents = q.shape, len(starts) - 1
        copies = -(-MULTIPROCESSORS // (documents * heads)) if ordered else 1
        _spread = q.new_empty(2, *q.shape) if len(k[0]) < heads else None
        _sums = q.new_empty(copies, count + 128 * documents, heads, size, dtype=torch.float32)
        _rows = q.new_empty(heads, count + 128 * documents, dtype=torch.float32)
        _gradients = [torch.empty_like(q) for _ in range(3)]

    patch.setattr(fast, "Host", Link)
    patch.setattr(ops, "attention", attention)
    patch.setattr(ops, "attention_backward_", attention_backward)
    def dropped(x: Tensor, mask: ops.Mask | None) -> Tensor:
        return x if mask is None else x.new_empty(x.shape)

    patch.setattr(ops, "dropout", dropped)
    patch.setattr(ops, "rms_norm", lambda x, _w, _eps, out, mask=None, _copy=None: (x.new_empty(len(x), dtype=torch.float32), dropped(out, mask)))
    for name in ("swiglu", "put"):
        patch.setattr(ops, name, lambda _, out, mask=None: dropped(out, mask))
    patch.setattr(ops, "cross_entropy_", lambda logits, *_: logits.new_empty(len(logits), dtype=torch.float32))
    for name in ("join", "renew", "rope_", "swiglu_backward_", "rms_norm_backward_", "lora_backward_", "gather_"):
        patch.setattr(ops, name, lambda *_: None)


def make_engine(plan: Plan, dropout: float) -> fast.FastEngine:
    base = Base("sizes", Path(), CONFIG, MISTRAL, ())
    shape = shape_of(base)
    with torch.device("meta"):
        layers = []
        for _ in range(LAYERS):
            groups = []
            for names in GROUPS:
                rows, columns = sum(sizes(shape)[name][0] for name in names), sizes(shape)[names[0]][1]
                groups.append((NF4(rows, columns, *(torch.empty(0) for _ in range(6))),))
            layers.append(fast.FrozenLayer(torch.empty(shape.hidden), torch.empty(shape.hidden), groups))
        table, head = (torch.empty(shape.vocabulary, shape.hidden, dtype=torch.bfloat16) for _ in range(2))
        frozen = fast.Frozen(table, head, torch.empty(shape.hidden), layers)
    device = Device("meta", torch.bfloat16, "no device")
    return fast.FastEngine(base, frozen, device, rank=16, alpha=32, dropout=dropout, targets=SEVEN_PROJECTIONS, plan=plan)
