"""Which engine trains: chosen by what the machine and the model are, and told once.

The face of an engine is ``loop.Engine``. All engines compute the same loss and gradients up to rounding, see the data in the same order and
read and write the same checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from papertune.base import Base
from papertune.errors import BadValue
from papertune.kernels import ops
from papertune.train.fast.shape import unsupported
from papertune.train.loop import Engine, out_of_memory
from papertune.train.model import Device, load_model, make_deterministic


@dataclass(frozen=True, slots=True)
class Lora:
    """The shape of the trained weights; ``targets`` are projections (``q_proj``), ``dropout`` is of their inputs."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]


def choose_engine(wanted: str, base: Base, device: Device) -> tuple[str, str]:
    """(name, why) for ``wanted``: auto, fast or reference. Raises BadValue when fast is wanted and cannot be."""
    obstacle = unsupported(base)
    if wanted == "fast" and obstacle:
        raise BadValue(f"--engine fast cannot train {base.name}: {obstacle}.", "Choose --engine auto.")
    if wanted != "auto":
        return wanted, "as asked"
    obstacle = ops.unavailable(torch.device(device.kind)) or obstacle
    return ("reference", f"since {obstacle}") if obstacle else ("fast", "since this GPU and model allow it")


def open_engine(name: str, base: Base, device: Device, lora: Lora, *, layers: int | None = None) -> Engine:
    """The model on the device, ready to train; ``layers`` loads only the first so many, to measure with. Raises OutOfMemory."""
    if device.kind == "cuda":
        make_deterministic()
    try:
        return _fast(base, device, lora, layers) if name == "fast" else _reference(base, device, lora, layers)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(f"loading {base.name}") from error


def _reference(base: Base, device: Device, lora: Lora, layers: int | None) -> Engine:
    from papertune.train.reference import ReferenceEngine

    model = load_model(base.folder, device, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, layers=layers)
    return ReferenceEngine(model, device)


def _fast(base: Base, device: Device, lora: Lora, layers: int | None) -> Engine:
    from papertune.train.fast.engine import FastEngine, load_frozen
    from papertune.train.fast.plan import Plan

    if layers is not None:
        base = replace(base, config={**base.config, "num_hidden_layers": layers})
    frozen = load_frozen(base, device)
    return FastEngine(base, frozen, device, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, plan=Plan())
