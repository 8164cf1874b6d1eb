"""Whether the fast engine can train a model here, and the engine itself."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch

from papertune.base import Base
from papertune.events import OnEvent, ignore
from papertune.kernels import ops
from papertune.train.fast.engine import FastEngine, load_frozen
from papertune.train.fast.plan import Plan
from papertune.train.fast.rehearsal import rehearsal
from papertune.train.fast.shape import unsupported
from papertune.train.model import Device


def why_not(base: Base, device: Device) -> str:
    """Why the fast engine cannot train this model on this device, in words; empty when it can."""
    return ops.unavailable(torch.device(device.kind)) or unsupported(base)


def open_fast(
    base: Base,
    device: Device,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: tuple[str, ...],
    layers: int | None = None,
    plan: Plan | None = None,
    memory: int = 0,
    on_event: OnEvent = ignore,
) -> FastEngine:
    """The model on the device; ``layers`` reads only the first so many. Raises BadModel, torch.OutOfMemoryError."""
    engine_of = partial(FastEngine, base, device=device, rank=rank, alpha=alpha, dropout=dropout, targets=targets, memory=memory)
    with rehearsal(base, device, engine_of) if device.kind == "cuda" else nullcontext():
        frozen = load_frozen(base, device, layers, on_event)
    return engine_of(frozen, plan=plan)
