"""The training loop: read it from top to bottom.

One optimiser step takes the next ``batch_size`` × ``grad_accum`` sequences of the stream. Their loss is the mean over all their tokens,
however they are cut into micro-batches, so ``batch_size`` and ``grad_accum`` change memory and speed but not the result. Each step's
dropout is a function of seed and step. What a step does therefore hangs on the checkpointed state alone, and a run that was stopped
anywhere goes on exactly.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from papertune.errors import OutOfMemory, TrainingDiverged
from papertune.events import OnEvent, Started, Unit
from papertune.files import writing
from papertune.train.batches import Sequences, Stream, TokenSequence
from papertune.train.checkpoint import LoopState
from papertune.train.optimizer import learning_rate

if TYPE_CHECKING:
    import numpy as np
    import torch

    from papertune.train.model import Device
    from papertune.train.optimizer import Optimizer

VALIDATION = 128  # sequences a validation measures, spread evenly over the held-out ones: every interval pays for them


class Engine(Protocol):
    """Runs the model. ``parameters`` are the LoRA weights by PEFT name, float32; ``accumulate`` adds to their gradients.

    ``micro_batches`` cuts sequences into what the engine takes at once; ``size`` is how many the user allows.
    """

    name: str
    device: Device
    parameters: dict[str, torch.nn.Parameter]

    def micro_batches(self, batch: Sequence[TokenSequence], size: int, /) -> list[list[TokenSequence]]: ...
    def accumulate(self, batch: Sequence[TokenSequence], scale: float, seed: int) -> torch.Tensor: ...
    def measure(self, batch: Sequence[TokenSequence]) -> torch.Tensor: ...
    def adapter(self) -> dict[str, np.ndarray]: ...
    def load_adapter(self, tensors: Mapping[str, np.ndarray]) -> None: ...
    def peak_memory(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Calls:
    """What the loop calls: ``save`` at intervals and before it is interrupted, ``save_best`` after a validation better than all before it,
    ``rest`` after each step, ``on_event`` as in ``events``."""

    save: Callable[[], None]
    save_best: Callable[[], None]
    rest: Callable[[], None]
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


def train(
    engine: Engine,
    optimizer: Optimizer,
    stream: Stream,
    held_out: Sequences,
    schedule: Schedule,
    state: LoopState,
    log: EventLog,
    calls: Calls,
) -> None:
    """Trains from ``state`` to the end of the schedule, changing ``state`` as it goes.

    Raises TrainingDiverged or OutOfMemory, with the last good state saved, and whatever ``calls.on_event`` raises.
    """
    steps = schedule.steps(state)
    saved, saved_at = state.step, time.monotonic()
    calls.on_event(Started("Training", steps, "steps", state.step))
    if state.first_bits is None:
        state.first_bits = state.last_bits = _validate(engine, held_out, schedule.batch_size, state, log)
    while not schedule.ends(state):
        began = time.monotonic()
        batch = stream.take(state.position, min(schedule.batch, schedule.total - state.position))
        rate = learning_rate(schedule.lr, state.position, schedule.total)
        try:
            loss, norm = _gradients(engine, optimizer, batch, schedule, state.step)
        except (OutOfMemory, TrainingDiverged):
            optimizer.forget()
            if saved != state.step:
                calls.save()
            raise
        with telling_out_of_memory("the optimiser"):
            optimizer.step(rate)
        state.step += 1
        state.position += len(batch)
        tokens = sum(len(item.ids) for item in batch)
        state.tokens += tokens
        seconds = time.monotonic() - began
        state.seconds += seconds
        peak = engine.peak_memory()
        log.write("step", state.step, loss=loss, lr=rate, gradient_norm=norm, tokens_per_second=round(tokens / seconds, 1), peak_memory=peak)
        if state.position >= schedule.total or state.step % schedule.eval_steps == 0:
            state.last_bits = _validate(engine, held_out, schedule.batch_size, state, log)
            if state.best_bits is None or state.last_bits < state.best_bits:
                state.best_bits, state.stale = state.last_bits, 0
                calls.save_best()
            else:
                state.stale += 1
        if schedule.ends(state) or state.step % schedule.save_steps == 0 or time.monotonic() - saved_at > schedule.save_minutes * 60:
            calls.save()
            saved, saved_at = state.step, time.monotonic()
        try:
            calls.on_event(Unit(state.step, f"loss {loss:.3f}", _figures(state, tokens / seconds, peak)))
        except BaseException:
            if saved != state.step:
                calls.save()
            raise
        calls.rest()


def _gradients(engine: Engine, optimizer: Optimizer, batch: list[TokenSequence], schedule: Schedule, step: int) -> tuple[float, float]:
    """Gathers the gradient of this step's mean loss; returns that loss (nats a token) and the gradient's norm."""
    import torch

    targets = sum(item.targets for item in batch)
    longest = max(len(item.ids) for item in batch)
    with telling_out_of_memory(f"step {step + 1}, sequences of {longest} tokens"):
        micro = engine.micro_batches(batch, schedule.batch_size)
        losses = [engine.accumulate(part, optimizer.scale / targets, _dropout_seed(schedule.seed, step, i)) for i, part in enumerate(micro)]
        loss = float(torch.stack(losses).sum()) / targets
    norm = optimizer.clip()
    if not 0 < loss < schedule.worst or not (math.isfinite(norm) or optimizer.scale > 1):  # in float16 the scaler deals with an infinite gradient
        raise TrainingDiverged(
            f"The loss of step {step + 1} is {loss}, the gradient's norm {norm}: training has diverged.",
            "Run again with a lower --lr, such as a third of it; the weights before this step are saved as a checkpoint.",
        )
    return loss, norm


@contextmanager
def telling_out_of_memory(when: str) -> Iterator[None]:
    """Turns running out of memory inside into OutOfMemory; ``when`` says what was being done."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(when) from error


def out_of_memory(when: str) -> OutOfMemory:
    return OutOfMemory(
        f"Memory was not enough ({when}).",
        "Close other programs that use the GPU, then try in this order: --max-seq-len 256; --lora-rank 8; "
        "--target-modules q_proj,k_proj,v_proj,o_proj. Finished steps are kept while settings stay the same.",
    )


def _validate(engine: Engine, held_out: Sequences, batch_size: int, state: LoopState, log: EventLog) -> float:
    """Bits per byte of held-out text, over at most VALIDATION sequences."""
    count = min(VALIDATION, len(held_out))
    items = [held_out.items[i * len(held_out) // count] for i in range(count)]
    with telling_out_of_memory("validation"):
        nats = sum(float(engine.measure(part)) for part in engine.micro_batches(items, batch_size))
    bits = nats / math.log(2) / sum(item.bytes for item in items)
    log.write("validation", state.step, loss=nats / sum(item.targets for item in items), bits_per_byte=bits, sequences=count)
    return bits


def _figures(state: LoopState, speed: float, peak: int) -> dict[str, str]:
    figures = {"tokens/s": f"{speed:,.0f}", "memory": f"{peak / (1 << 30):.1f} GiB"}
    if state.last_bits is not None:
        figures["held-out bits/byte"] = f"{state.last_bits:.3f}"
    return figures


def _dropout_seed(seed: int, step: int, micro: int) -> int:
    return (seed * 0x9E3779B1 + step * 0x85EBCA77 + micro * 0xC2B2AE3D) % (1 << 62)


class EventLog:
    """``events.jsonl``: one JSON object a line, each with ``event`` and ``step``. It reads as one run however often it was stopped."""

    def __init__(self, path: Path, step: int) -> None:
        """Goes on after ``step``: lines of later steps, which will come again, and a torn last line are dropped."""
        self._path = path
        kept = [line for line in _lines(path) if _step_of(line) <= step]
        with writing(path) as file:
            file.write(b"".join(kept))
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the log

    def write(self, event: str, step: int, **figures: Any) -> None:
        self._file.write(json.dumps({"event": event, "step": step, **figures}).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
