"""What a run will need, found by measuring slices of the very model instead of by formulas.

Memory and time of a step are a constant (embedding, head, optimiser's buffers) plus a part for each layer, and all layers are alike. So two
slices, the first few layers and twice as many, are loaded and take real steps at the longest and at typical lengths; a straight line through
both gives the whole model. This holds for every engine, card and shape, and takes seconds: only the slices' weights are read.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from papertune.base import Base
from papertune.train.batches import Sequences, TokenSequence
from papertune.train.checkpoint import KEEP
from papertune.train.engines import Lora, open_engine
from papertune.train.loop import Engine, Schedule
from papertune.train.model import Device, initial_adapter
from papertune.train.optimizer import Optimizer

SMALL_SLICE = 2  # layers
ROUNDING = 0.045  # what torch's allocator holds beyond what is asked of it, of the whole; it does not grow in a straight line
_STEPS = 3  # timed steps; the first step of a slice is not


@dataclass(frozen=True, slots=True)
class Estimate:
    """Sizes in bytes; ``seconds`` is for the whole run without validation. ``gpu`` is 0 on a CPU, where ``host`` counts the model too."""

    gpu: int
    host: int
    disk: int
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class _Measured:
    peak: int  # bytes: on the GPU, or resident
    seconds: float  # of one step
    lora: int  # weights


def estimate(engine: str, base: Base, device: Device, lora: Lora, data: Sequences, schedule: Schedule) -> Estimate:
    """For the engine of this name (``engines.choose_engine``). Raises OutOfMemory when not even a slice fits."""
    whole = int(base.config["num_hidden_layers"])
    small = min(SMALL_SLICE, max(1, whole // 2))
    step = _typical_step(data, schedule)
    few, more = (_measure(engine, base, device, lora, layers, step, _longest(data, schedule), schedule) for layers in (small, min(2 * small, whole)))

    def at_full_depth(of: Callable[[_Measured], float]) -> float:
        if whole <= small:
            return of(few)
        slope = max(0.0, (of(more) - of(few)) / (min(2 * small, whole) - small))
        return of(few) + slope * (whole - small)

    weights = at_full_depth(lambda m: m.lora)
    peak = int(at_full_depth(lambda m: m.peak) * (1 + ROUNDING if device.kind == "cuda" else 1))
    seconds = at_full_depth(lambda m: m.seconds)
    import psutil

    here = int(psutil.Process().memory_info().rss)
    return Estimate(
        gpu=peak if device.kind == "cuda" else 0,
        host=here if device.kind == "cuda" else peak,
        # A checkpoint holds float32 weights and two 8-bit moments; one more is written before the oldest goes, and final has the weights.
        disk=int(weights * (4 + 2) * (KEEP + 1) + weights * 4),
        seconds=seconds * schedule.total / schedule.batch,
        tokens_per_second=sum(len(item.ids) for item in step) / seconds,
    )


def _typical_step(data: Sequences, schedule: Schedule) -> list[TokenSequence]:
    """The sequences of one step, from evenly spread places in the data when ordered by length."""
    by_length = sorted(data.items, key=lambda item: len(item.ids))
    chosen = [by_length[(2 * i + 1) * len(by_length) // (2 * schedule.batch)] for i in range(schedule.batch)]
    return chosen[::2] + chosen[1::2]  # short and long ones fall together, as they do in training


def _longest(data: Sequences, schedule: Schedule) -> list[TokenSequence]:
    """A step of the longest sequences: it needs the most memory."""
    return sorted(data.items, key=lambda item: -len(item.ids))[: schedule.batch]


def _measure(
    name: str, base: Base, device: Device, lora: Lora, layers: int, step: list[TokenSequence], longest: list[TokenSequence], schedule: Schedule
) -> _Measured:
    """Memory and time of a slice of so many layers."""
    engine = open_engine(name, base, device, lora, layers=layers)
    if device.kind == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # loading holds one matrix at a time in full: less than a step
    engine.load_adapter(initial_adapter({name: tuple(p.shape) for name, p in engine.parameters.items()}, schedule.seed))
    optimizer = Optimizer(engine.parameters, half=device.dtype == torch.float16)
    _take(engine, optimizer, longest, schedule)
    times = []
    for _ in range(_STEPS):
        began = time.monotonic()
        _take(engine, optimizer, step, schedule)
        times.append(time.monotonic() - began)
    peak = torch.cuda.max_memory_allocated() if device.kind == "cuda" else engine.peak_memory()
    measured = _Measured(peak, statistics.median(times), sum(p.numel() for p in engine.parameters.values()))
    del engine, optimizer
    gc.collect()
    return measured


def _take(engine: Engine, optimizer: Optimizer, step: list[TokenSequence], schedule: Schedule) -> None:
    targets = sum(item.targets for item in step)
    losses = [engine.accumulate(part, optimizer.scale / targets, schedule.seed) for part in engine.micro_batches(step, schedule.batch_size)]
    float(torch.stack(losses).sum())  # waits for the device
    optimizer.clip()
    optimizer.step(0.0)
