"""The training loop: read it from top to bottom.

One optimiser step takes the next ``batch_size`` × ``grad_accum`` sequences of the stream. Their loss is the mean over all their tokens,
however they are cut into micro-batches and shared out among processes, so these change memory and speed but not the result. Each step's
dropout is a function of seed, step and the sequence's place in the step. What a step does therefore hangs on the checkpointed state alone,
and a run that was stopped anywhere goes on exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from papertune.errors import OutOfMemory, ProcessLost, TrainingDiverged
from papertune.events import Notice, OnEvent, Started, Unit
from papertune.train.batches import Sequences, Stream, TokenSequence
from papertune.train.checkpoint import LoopState
from papertune.train.inputs import ADVICE
from papertune.train.optimizer import learning_rate
from papertune.train.pace import Pace
from papertune.train.team import Team

if TYPE_CHECKING:
    import numpy as np
    import torch

    from papertune.train.model import Device
    from papertune.train.optimizer import Optimizer

T = TypeVar("T")
VALIDATION = 128  # sequences a validation measures, spread evenly over the held-out ones: every interval pays for them


class Engine(Protocol):
    """Runs the model. ``parameters`` are the LoRA weights by PEFT name, float32; ``accumulate`` adds to their gradients. ``flat`` is one tensor
    of which they are views, where the engine has that.

    ``micro_batches`` cuts sequences, in order, into what the engine takes at once; ``size`` is how many the user allows. ``room`` is how
    much the engine has found to fit into one (in a unit of its own, None: not yet known); it is kept in checkpoints, since another cut
    rounds differently. ``places`` are the sequences' places in the step: with the seed they decide the dropout.
    """

    name: str
    device: Device
    parameters: dict[str, torch.nn.Parameter]
    room: int | None

    @property
    def flat(self) -> torch.nn.Parameter | None: ...
    def micro_batches(self, batch: Sequence[TokenSequence], size: int, /) -> list[list[TokenSequence]]: ...
    def accumulate(self, batch: Sequence[TokenSequence], scale: float, seed: int, places: Sequence[int], /) -> torch.Tensor: ...
    def gradients(self) -> list[torch.Tensor]: ...
    def measure(self, batch: Sequence[TokenSequence]) -> torch.Tensor: ...
    def next_token(self, ids: np.ndarray) -> int: ...
    def economise(self) -> bool: ...
    def adapter(self) -> dict[str, np.ndarray]: ...
    def load_adapter(self, tensors: Mapping[str, np.ndarray]) -> None: ...
    def peak_memory(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Calls:
    """What the loop calls: ``save`` at intervals and before it is interrupted, ``save_best`` after a validation better than all before it,
    ``sample`` after each validation, in the first process; ``rest`` after each step, with what it is to call now and then while it waits;
    ``log`` as ``log.EventLog.write``; ``on_event`` as in ``events``."""

    save: Callable[[], None]
    save_best: Callable[[], None]
    sample: Callable[[], None]
    rest: Callable[[Callable[[], None]], None]
    log: Callable[..., None]
    on_event: OnEvent


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how often, in optimiser steps; ``total`` is in sequences. ``save_minutes`` is the most that a crash may cost.

    ``worst`` is the loss (nats a token) from which on training counts as diverged.
    """

    total: int
    batch_size: int
    grad_accum: int
    lr: float
    seed: int
    worst: float
    save_steps: int
    save_minutes: float
    eval_steps: int
    patience: int | None = None  # validations without a new best after which training stops

    @property
    def batch(self) -> int:
        return self.batch_size * self.grad_accum

    def ends(self, state: LoopState) -> bool:
        return state.position >= self.total or (self.patience is not None and state.stale >= self.patience)

    def steps(self, state: LoopState) -> int:
        """Steps of the whole run, given where it stands."""
        return state.step + math.ceil((self.total - state.position) / self.batch)

    def validations(self, state: LoopState) -> int:
        """How many validations are to come: at intervals, and after the last step."""
        last = self.steps(state)
        return last // self.eval_steps - state.step // self.eval_steps + (last % self.eval_steps > 0)


def train(
    engine: Engine,
    optimizer: Optimizer,
    stream: Stream,
    held_out: Sequences,
    schedule: Schedule,
    state: LoopState,
    calls: Calls,
    team: Team,
) -> None:
    """Trains from ``state`` to the end of the schedule, changing ``state`` as it goes.

    Raises TrainingDiverged, OutOfMemory or ProcessLost, with the last good state saved, and whatever ``calls`` raise.
    """
    steps = schedule.steps(state)
    pace = Pace(time.monotonic, state.validation_seconds)
    saved, saved_at = state.step, time.monotonic()
    engine.room = state.room.get(engine.name)
    calls.on_event(Started("Training", steps, "steps", state.step, uneven=True))
    if state.first_bits is None:
        state.first_bits = state.last_bits = _validate(engine, held_out, schedule, state, pace, calls, team)
    while not schedule.ends(state):
        began = time.monotonic()
        batch = stream.take(state.position, min(schedule.batch, schedule.total - state.position))
        rate = learning_rate(schedule.lr, state.position, schedule.total)
        try:
            loss, norm = _gradients(engine, optimizer, batch, schedule, state.step, calls, team)
        except (OutOfMemory, TrainingDiverged, ProcessLost):
            optimizer.forget()
            if saved != state.step:
                calls.save()
            raise
        with team.together(), telling_out_of_memory("the optimiser"):
            optimizer.step(rate)
        state.step += 1
        state.position += len(batch)
        tokens = sum(len(item.ids) for item in batch)
        state.tokens += tokens
        seconds = time.monotonic() - began
        state.seconds += seconds
        pace.step(tokens, seconds)
        if engine.room is not None:
            state.room = {**state.room, engine.name: engine.room}
        peak = engine.peak_memory()
        speed = round(tokens / seconds, 1)
        try:
            calls.log("step", state.step, loss=loss, lr=rate, gradient_norm=norm, tokens_per_second=speed, peak_memory=peak)
        except BaseException:
            calls.save()
            raise
        if state.position >= schedule.total or state.step % schedule.eval_steps == 0:
            state.last_bits = _validate(engine, held_out, schedule, state, pace, calls, team)
            with team.together():
                if state.best_bits is None or state.last_bits < state.best_bits:
                    state.best_bits, state.stale = state.last_bits, 0
                    calls.save_best()
                else:
                    state.stale += 1
        with team.together():
            if schedule.ends(state) or state.step % schedule.save_steps == 0 or time.monotonic() - saved_at > schedule.save_minutes * 60:
                calls.save()
                saved, saved_at = state.step, time.monotonic()
        tokens_left = stream.data.tokens / len(stream.data) * (schedule.total - state.position)
        left = pace.left(tokens_left, steps - state.step, schedule.validations(state))
        unit = Unit(state.step, figures=_figures(state, loss, speed, peak), left=left)
        try:
            with team.together():
                calls.on_event(unit)
                calls.rest(partial(calls.on_event, unit))
        except BaseException:
            if saved != state.step:
                calls.save()
            raise


def _gradients(
    engine: Engine, optimizer: Optimizer, batch: list[TokenSequence], schedule: Schedule, step: int, calls: Calls, team: Team
) -> tuple[float, float]:
    """Gathers the gradient of this step's mean loss; returns that loss (nats a token) and the gradient's norm."""
    targets = sum(item.targets for item in batch)
    longest = max(len(item.ids) for item in batch)
    size, mine = _share(batch, schedule.batch_size, team)
    seed = _dropout_seed(schedule.seed, step)

    def accumulate() -> float:
        """This process's part of the loss in nats."""
        optimizer.forget()  # what a pass that ran out of memory has added
        scale = optimizer.scale / targets
        total, done = [], 0
        for part in engine.micro_batches([batch[place] for place in mine], size):
            total.append(engine.accumulate(part, scale, seed, mine[done : done + len(part)]))
            done += len(part)
        return _sum(total)

    with team.together():
        nats = _economising(accumulate, engine, f"step {step + 1}, sequences of {longest} tokens", calls)
    loss = team.total(nats) / targets
    team.add_up(engine.gradients())
    norm = optimizer.clip()
    if not 0 < loss < schedule.worst or not (math.isfinite(norm) or optimizer.scale > 1):  # in float16 the scaler deals with an infinite gradient
        raise TrainingDiverged(
            f"The loss of step {step + 1} is {loss}, the gradient's norm {norm}: training has diverged.",
            "Run again with a lower --lr, such as a third of it: training begins anew, and what was trained so far is kept.",
        )
    return loss, norm


def _share(batch: Sequence[TokenSequence], size: int, team: Team) -> tuple[int, list[int]]:
    """Sequences a micro-batch, and the places in the step of this process's sequences. What was one micro-batch stays one where all have work."""
    size = min(size, math.ceil(len(batch) / team.size))
    groups = [range(first, min(first + size, len(batch))) for first in range(0, len(batch), size)]
    mine = team.share([sum(len(batch[place].ids) for place in group) for group in groups])
    return size, [place for i in mine for place in groups[i]]


def _sum(losses: Sequence[torch.Tensor]) -> float:
    import torch

    return float(torch.stack(list(losses)).double().sum()) if losses else 0.0


def _economising(action: Callable[[], T], engine: Engine, when: str, calls: Calls) -> T:
    """Does it, again and again in smaller pieces while memory runs out. Raises OutOfMemory when the pieces cannot become smaller."""
    while True:
        try:
            return action()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            failure = error.with_traceback(None)  # which holds on to the tensors of the failed pass
        if not engine.economise():
            raise out_of_memory(when) from failure
        calls.on_event(Notice(f"Memory ran out ({when}). Training goes on with less at a time; the effective batch stays as it is.", "warning"))


@contextmanager
def telling_out_of_memory(when: str) -> Iterator[None]:
    """Turns running out of memory inside into OutOfMemory; ``when`` says what was being done."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise out_of_memory(when) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Torch has an exception for a GPU's memory alone; of the machine's own it says so in words."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def out_of_memory(when: str) -> OutOfMemory:
    return OutOfMemory(f"Memory was not enough ({when}).", f"{ADVICE} Finished steps are kept while settings stay the same.")


@dataclass(frozen=True, slots=True)
class Validation:
    """Held-out text under the model as it is: ``loss`` in nats a token, over ``sequences`` in all; ``seconds`` is what this process took."""

    bits_per_byte: float
    loss: float
    sequences: int
    seconds: float


def measure(engine: Engine, held_out: Sequences, size: int, calls: Calls, team: Team) -> Validation:
    """Over at most VALIDATION sequences, ``size`` at a time. Raises OutOfMemory or ProcessLost."""
    count = min(VALIDATION, len(held_out))
    items = [held_out.items[i * len(held_out) // count] for i in range(count)]
    mine = [items[i] for i in team.share([len(item.ids) for item in items])]
    warm = time.monotonic()

    def nats() -> float:
        """This process's part. The first sequence goes alone, so that what is compiled for it counts for no time."""
        nonlocal warm
        first = _sum([engine.measure(mine[:1])]) if mine else 0.0
        warm = time.monotonic()
        return first + _sum([engine.measure(part) for part in engine.micro_batches(mine[1:], size)] if mine[1:] else [])

    with team.together():
        part = _economising(nats, engine, "validation", calls)
    total = team.total(part)
    seconds = (time.monotonic() - warm) * (1 + 1 / max(1, len(mine) - 1))
    return Validation(total / math.log(2) / sum(item.bytes for item in items), total / sum(item.targets for item in items), count, seconds)


def _validate(engine: Engine, held_out: Sequences, schedule: Schedule, state: LoopState, pace: Pace, calls: Calls, team: Team) -> float:
    """Measures, logs, lets the model write; returns bits per byte."""
    found = measure(engine, held_out, schedule.batch_size, calls, team)
    calls.log("validation", state.step, loss=found.loss, bits_per_byte=found.bits_per_byte, sequences=found.sequences)
    sampling = time.monotonic()
    with team.together():
        if team.first:
            calls.sample()
    state.validation_seconds = found.seconds + time.monotonic() - sampling
    pace.validation(state.validation_seconds)
    return found.bits_per_byte


def _figures(state: LoopState, loss: float, speed: float, peak: int) -> dict[str, str]:
    figures = {"loss": f"{loss:.3f}", "tokens/s": f"{speed:,.0f}", "memory": f"{peak / (1 << 30):.1f} GiB"}
    if state.last_bits is not None:
        figures["held-out bits/byte"] = f"{state.last_bits:.3f}"
    return figures


def _dropout_seed(seed: int, step: int) -> int:
    return (seed * 0x9E3779B1 + step * 0x85EBCA77) % (1 << 62)
