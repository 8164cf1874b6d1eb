"""Which engine trains: chosen by what the machine has, and told once.

The face of an engine is ``loop.Engine``. All engines compute the same loss and gradients up to rounding, see the data in the same order and
read and write the same checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from papertune.base import Base
from papertune.train.loop import Engine, out_of_memory
from papertune.train.model import Device, load_model
from papertune.train.reference import ReferenceEngine


@dataclass(frozen=True, slots=True)
class Lora:
    """The shape of the trained weights; ``targets`` are projections (``q_proj``), ``dropout`` is of their inputs."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]


def open_engine(base: Base, device: Device, lora: Lora, *, layers: int | None = None) -> Engine:
    """The model on the device, ready to train; ``layers`` loads only the first so many, to measure with. Raises OutOfMemory."""
    try:
        model = load_model(
            base.folder, device, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, layers=layers
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(f"loading {base.name}") from error
    return ReferenceEngine(model, device)
