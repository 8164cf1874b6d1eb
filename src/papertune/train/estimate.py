"""What a run will need, found by measuring slices of the very model instead of by formulas.

Memory and time of a step are a constant (embedding, head, optimiser's buffers) plus a part for each layer, and all layers are alike. So two
slices, the first few layers and twice as many, are loaded and take real steps at the longest and at typical lengths; a straight line through
both gives the whole model. This holds for every engine, card and shape, and takes seconds: only the slices' weights are read.

The fast engine treats its layers in several ways (``fast.plan``). It is asked which ones the whole model will have, and each of them is timed
on both slices.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from papertune.base import Base
from papertune.events import OnEvent, Started, Unit
from papertune.train.batches import Sequences, TokenSequence
from papertune.train.checkpoint import KEEP, LoopState
from papertune.train.engines import Lora, open_engine, optimizer_of, set_new_adapter
from papertune.train.fast.budget import Foreseen
from papertune.train.fast.engine import FastEngine
from papertune.train.fast.memory import Work
from papertune.train.fast.plan import Plan, words
from papertune.train.loop import VALIDATION, Engine, Schedule
from papertune.train.model import Device
from papertune.train.optimizer import Optimizer
from papertune.train.sample import beginning

SMALL_SLICE = 2  # layers
ROUNDING = {"reference": 0.045, "fast": 0.02}  # what torch's allocator holds beyond what is asked of it, of the whole: measured
_STEPS = 3  # timed steps of each kind; the first step of a kind is not


@dataclass(frozen=True, slots=True)
class Estimate:
    """Sizes in bytes; ``seconds`` is for the whole run, ``validation_seconds`` of them for validation and its samples. ``gpu`` is 0 on a CPU,
    where ``host`` counts the model too. ``plan`` is what the fast engine does with its layers, in words."""

    gpu: int
    host: int
    disk: int
    seconds: float
    validation_seconds: float
    tokens_per_second: float
    plan: str


@dataclass(frozen=True, slots=True)
class _Measured:
    """A slice of so many ``layers``: bytes before a step and at its highest, seconds of a typical step by what becomes of the layers and
    of reading it alone, and of a sample; trained weights. ``foresee`` is the fast engine's ``Budget.foresee``."""

    layers: int
    resident: int
    peak: int
    seconds: dict[str, float]
    reading: float
    sample: float
    lora: int
    foresee: Callable[[int, int, Work], Foreseen] | None


def estimate(
    engine: str,
    base: Base,
    device: Device,
    lora: Lora,
    data: Sequences,
    held_out: Sequences,
    schedule: Schedule,
    sampled: int,
    on_event: OnEvent,
) -> Estimate:
    """For the engine of this name (``engines.choose_engine``); ``sampled`` tokens are written after each validation. Raises OutOfMemory when
    not even a slice fits."""
    import psutil

    whole = int(base.config["num_hidden_layers"])
    small = min(SMALL_SLICE, max(1, whole // 2))
    (step,), longest = typical_steps(data, schedule, 1), _longest(data, schedule)
    slices = []
    on_event(Started("Measuring parts of the model", 2, "parts"))
    for layers in (small, min(2 * small, whole)):
        slices.append(_measure(open_engine(engine, base, device, lora, layers=layers), layers, step, longest, held_out, sampled, schedule))
        gc.collect()
        on_event(Unit(len(slices)))
    few, more = slices

    def at_depth(of: Callable[[_Measured], float], layers: int = whole) -> float:
        if more.layers == few.layers:
            return of(few)
        return of(few) + max(0.0, (of(more) - of(few)) / (more.layers - few.layers)) * (layers - few.layers)

    weights = at_depth(lambda m: m.lora)
    peak, plan, pinned = at_depth(lambda m: m.peak), None, 0
    seconds = at_depth(lambda m: m.seconds["recompute"])
    if more.foresee is not None:
        tokens = sum(len(item.ids) for item in longest)
        work = Work(tokens, sum(item.targets for item in longest), len(longest))
        foreseen = more.foresee(whole, int(at_depth(lambda m: m.resident)), work)
        plan, peak, pinned = foreseen.plan, foreseen.peak, foreseen.pinned
        keep, offload, attention, _ = plan.counts(whole)
        fates = {"attention": attention, "keep": keep, "offload": offload, "dequantised": plan.ready(whole)}  # what is streamed comes unnoticed
        for fate, layers in fates.items():  # instead of so many layers recomputed
            for kind, sign in ((fate, 1), ("recompute", -1)):
                seconds += sign * (at_depth(_seconds_of(kind), layers) - at_depth(_seconds_of(kind), 0))
    tokens_per_second = sum(len(item.ids) for item in step) / seconds
    reading = sum(len(item.ids) for item in step) / at_depth(lambda m: m.reading)
    validation = validations(held_out, schedule, reading, at_depth(lambda m: m.sample))
    here = int(psutil.Process().memory_info().rss)
    cuda = device.kind == "cuda"
    return Estimate(
        gpu=int(peak * (1 + ROUNDING[engine])) if cuda else 0,
        host=here + pinned if cuda else int(peak),
        # A checkpoint holds float32 weights and two 8-bit moments; one more is written before the oldest goes, and final and best have the weights.
        disk=int(weights * (4 + 2) * (KEEP + 1) + 2 * weights * 4),
        seconds=data.tokens / len(data) * schedule.total / tokens_per_second + validation,
        validation_seconds=validation,
        tokens_per_second=tokens_per_second,
        plan="" if plan is None else words(plan, whole),
    )


def typical_steps(data: Sequences, schedule: Schedule, count: int) -> list[list[TokenSequence]]:
    """The sequences of ``count`` steps, each from evenly spread places in the data when ordered by length: all steps are of nearly one size."""
    by_length = sorted(data.items, key=lambda item: len(item.ids))
    steps = []
    for k in range(count):
        share = (2 * k + 1) / (2 * count)
        chosen = [by_length[min(len(by_length) - 1, int((i + share) * len(by_length) / schedule.batch))] for i in range(schedule.batch)]
        steps.append(chosen[::2] + chosen[1::2])  # short and long ones fall together, as they do in training
    return steps


def validations(held_out: Sequences, schedule: Schedule, speed: float, sample: float) -> float:
    """Seconds of all validations of a run, at so many tokens read a second and seconds a sample."""
    once = min(VALIDATION, len(held_out)) * held_out.tokens / len(held_out)
    return (once / speed + sample) * (1 + schedule.validations(LoopState()))


def seconds_a_sample(engine: Engine, held_out: Sequences, tokens: int) -> float:
    """Of so many tokens, by the time that the middle one takes."""
    passage = held_out.items[0]
    half_written = passage.ids[: len(beginning(passage)) + tokens // 2]
    return tokens * _median(lambda: engine.next_token(half_written)) if tokens else 0.0


def take_step(engine: Engine, optimizer: Optimizer, step: list[TokenSequence], schedule: Schedule) -> None:
    """One step as in training, without moving the weights."""
    scale = optimizer.scale / sum(item.targets for item in step)
    losses, done = [], 0
    for part in engine.micro_batches(step, schedule.batch_size):
        losses.append(engine.accumulate(part, scale, schedule.seed, range(done, done + len(part))))
        done += len(part)
    float(torch.stack(losses).sum())  # waits for the device
    optimizer.clip()
    optimizer.step(0.0)


def _longest(data: Sequences, schedule: Schedule) -> list[TokenSequence]:
    """A step of the longest sequences: it needs the most memory."""
    return sorted(data.items, key=lambda item: -len(item.ids))[: schedule.batch]


def _measure(
    engine: Engine,
    layers: int,
    step: list[TokenSequence],
    longest: list[TokenSequence],
    held_out: Sequences,
    sampled: int,
    schedule: Schedule,
) -> _Measured:
    """Memory and time of a slice of so many layers."""
    set_new_adapter(engine, schedule.seed)
    optimizer = optimizer_of(engine, engine.device)
    cuda = engine.device.kind == "cuda"
    take_step(engine, optimizer, longest[:1], schedule)  # makes the optimiser's state
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # loading holds one matrix at a time in full: less than a step
    resident = torch.cuda.memory_allocated() if cuda else 0
    if isinstance(engine, FastEngine):
        resident -= engine.budget.held
    take_step(engine, optimizer, longest, schedule)
    peak = torch.cuda.max_memory_allocated() if cuda else engine.peak_memory()
    plans = {"recompute": Plan(), "attention": Plan(attention=layers), "keep": Plan(keep=layers), "offload": Plan(offload=layers)}
    plans["dequantised"] = Plan(dequantised=layers)
    seconds = {}
    for fate in plans if isinstance(engine, FastEngine) and cuda else ("recompute",):
        if isinstance(engine, FastEngine):
            engine.fixed = plans[fate]
        seconds[fate] = _median(lambda: take_step(engine, optimizer, step, schedule))
    reading = _median(lambda: float(sum(engine.measure(part) for part in engine.micro_batches(step, schedule.batch_size))))
    foresee = engine.budget.foresee if isinstance(engine, FastEngine) and cuda else None
    sample = seconds_a_sample(engine, held_out, sampled)
    return _Measured(layers, resident, peak, seconds, reading, sample, sum(p.numel() for p in engine.parameters.values()), foresee)


def _seconds_of(fate: str) -> Callable[[_Measured], float]:
    return lambda measured: measured.seconds[fate]


def _median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_STEPS + 1):
        began = time.monotonic()
        work()
        times.append(time.monotonic() - began)
    return statistics.median(times[1:])
