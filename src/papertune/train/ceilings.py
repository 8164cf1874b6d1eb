"""What this machine can do at best: the roofline that training is measured against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from papertune.train.fast.flat import sizes
from papertune.train.fast.shape import Shape
from papertune.train.model import Device

_TIMES = 5  # the best of so many counts


@dataclass(frozen=True, slots=True)
class Ceilings:
    """``rate``: operations a second of a large matrix product; ``memory``: bytes a second read and written; ``host``: bytes a second over the
    link to pinned host memory, 0 on a CPU."""

    rate: float
    memory: float
    host: float


def measure_ceilings(device: Device) -> Ceilings:
    """A second on a GPU, a few on a CPU."""
    cuda = device.kind == "cuda"
    width = 8192 if cuda else 1024
    a, b = (torch.randn(width, width, device=device.place, dtype=device.dtype) for _ in range(2))
    out = torch.empty_like(a)
    rate = 2 * width**3 / _seconds(lambda: torch.mm(a, b, out=out), cuda)
    large = torch.empty((1 << 30) if cuda else (1 << 27), dtype=torch.uint8, device=device.place)
    other = torch.empty_like(large)
    memory = 2 * large.nbytes / _seconds(lambda: other.copy_(large), cuda)
    host = 0.0
    if cuda:
        pinned = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
        part = large[: len(pinned)]
        host = pinned.nbytes / _seconds(lambda: pinned.copy_(part, non_blocking=True), cuda)
    return Ceilings(rate, memory, host)


def operations(shape: Shape) -> int:
    """Operations a token that no engine can leave out: two products a weight (forward, and back to the activations; frozen weights need no
    gradient), 2 operations each; the LoRA weights' share is not counted."""
    weights = shape.layers * sum(rows * columns for rows, columns in sizes(shape).values()) + shape.vocabulary * shape.hidden
    return 4 * weights


def _seconds(work: Callable[[], object], cuda: bool) -> float:
    times = []
    for _ in range(_TIMES + 1):
        began = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])
