"""Kernels are compiled in threads while the base model is read: some thirty, of 0.2 to 0.9 seconds each, the first time a model is trained.

The engine itself goes through its passes, on a single layer of tensors on torch's meta device: these have a shape, a type and no numbers.
Nothing is computed, and an op that would launch a kernel compiles it (``kernels.launching``). So what is compiled is what will be launched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from papertune.base import Base
from papertune.kernels.nf4 import BLOCK, NEST, NF4
from papertune.train.batches import TokenSequence
from papertune.train.fast.engine import FastEngine, Frozen, frozen_layer
from papertune.train.fast.flat import sizes
from papertune.train.fast.plan import Plan
from papertune.train.fast.shape import shape_of
from papertune.train.model import Device

_NOWHERE = torch.device("meta")
_TOKENS = 32
_PLANS = (Plan(), Plan(attention=1), Plan(keep=1), *2 * (Plan(dequantised=1),))  # weights that stay are made, then made anew


@contextmanager
def rehearsal(base: Base, device: Device, engine_of: Callable[[Frozen], FastEngine]) -> Iterator[None]:
    """Compiles what this engine for this model on this GPU needs beside what is done inside, and ends when both have."""

    def compile_all() -> None:
        from papertune.kernels.launching import compiling

        torch.cuda.set_device(place)  # each thread has its own
        with compiling(place):
            go_through(engine_of(without_numbers(base, device)))

    place = device.place
    with ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(compile_all)
        yield
        compiled.result()


def go_through(engine: FastEngine) -> None:
    """Every kind of pass."""
    passage = [TokenSequence(np.zeros(_TOKENS, dtype=np.int32), 1, 0)]
    for plan in _PLANS:
        engine.fixed = plan
        engine.accumulate(passage, 1.0, 0)
    engine.measure(passage)


def without_numbers(base: Base, device: Device) -> Frozen:
    """Embedding, head and one layer of the model, without numbers."""
    shape = shape_of(base)

    def empty(*size: int) -> torch.Tensor:
        return torch.empty(size, dtype=device.dtype, device=_NOWHERE)

    table = empty(shape.vocabulary, shape.hidden)
    matrices = {name: _quantized(*size) for name, size in sizes(shape).items()}
    return Frozen(table, table, empty(shape.hidden), [frozen_layer(empty(shape.hidden), empty(shape.hidden), matrices)])


def _quantized(rows: int, columns: int) -> NF4:
    blocks = rows * columns // BLOCK

    def empty(count: int, kind: torch.dtype) -> torch.Tensor:
        return torch.empty(count, dtype=kind, device=_NOWHERE)

    codes, scales = empty(rows * columns // 2, torch.uint8), empty(blocks, torch.uint8)
    steps, offsets, book, levels = (empty(count, torch.float32) for count in (-(-blocks // NEST), -(-blocks // NEST), 256, 16))
    return NF4(rows, columns, codes, scales, steps, offsets, book, levels)
