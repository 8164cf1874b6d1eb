"""Which engine trains: chosen by what the machine and the model are, and told once.

The face of an engine is ``loop.Engine``. All engines compute the same loss and gradients up to rounding, see the data in the same order and
read and write the same checkpoints.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from papertune.base import Base, check_weights
from papertune.errors import BadModel, BadValue
from papertune.events import OnEvent, Started, ignore
from papertune.train.fast.engine import READING, FastEngine
from papertune.train.fast.opening import open_fast, why_not
from papertune.train.fast.plan import Plan
from papertune.train.fast.shape import unsupported
from papertune.train.loop import Engine, telling_out_of_memory
from papertune.train.model import Device, initial_adapter, load_model, make_deterministic
from papertune.train.optimizer import Optimizer


@dataclass(frozen=True, slots=True)
class Lora:
    """The shape of the trained weights; ``targets`` are projections (``q_proj``), ``dropout`` is of their inputs."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]


def choose_engine(wanted: str, base: Base, device: Device) -> tuple[str, str]:
    """(name, why) for ``wanted``: auto, fast or reference. Raises BadValue when fast is wanted and cannot be."""
    if wanted == "reference":
        return wanted, "as asked"
    slow = wanted == "fast" and device.kind == "cpu"  # and right: it is done when asked for
    obstacle = unsupported(base) if slow else why_not(base, device)
    if wanted == "fast":
        if obstacle:
            raise BadValue(f"--engine fast cannot train {base.name} here: {obstacle}.", "Choose --engine auto.")
        return wanted, "as asked"
    return ("reference", f"since {obstacle}") if obstacle else ("fast", "since this GPU and model allow it")


def libraries(name: str, device: Device) -> list[str]:
    """What a chosen engine imports beside torch. The fast one does without transformers and PEFT, which take longer than all the rest."""
    return ([] if name == "fast" else ["transformers", "peft"]) + (["bitsandbytes"] if device.kind == "cuda" else [])


def open_engine(name: str, base: Base, device: Device, lora: Lora, *, layers: int | None = None, on_event: OnEvent = ignore) -> Engine:
    """The model on the device, ready to train; ``layers`` loads only the first so many, to measure with. Raises OutOfMemory."""
    if device.kind == "cuda":
        make_deterministic()
    with telling_out_of_memory(f"loading {base.name}"):
        return _fast(base, device, lora, layers, on_event) if name == "fast" else _reference(base, device, lora, layers, on_event)


def set_new_adapter(engine: Engine, seed: int) -> None:
    """LoRA weights to begin with."""
    engine.load_adapter(initial_adapter({name: tuple(p.shape) for name, p in engine.parameters.items()}, seed))


def optimizer_of(engine: Engine, device: Device) -> Optimizer:
    return Optimizer(engine.parameters, half=device.dtype == torch.float16, flat=engine.flat)


def plan_of(engine: Engine) -> dict[str, Any]:
    """What the engine did with its layers' activations in the last step (``fast.plan``), and how many layers there are; empty without a plan."""
    if not isinstance(engine, FastEngine):
        return {}
    return {"layers": engine.shape.layers, **asdict(engine.plan)}


def _reference(base: Base, device: Device, lora: Lora, layers: int | None, on_event: OnEvent) -> Engine:
    from papertune.train.reference import ReferenceEngine

    on_event(Started(READING, None, "layers"))
    check_weights(base)
    try:
        model = load_model(base.folder, device, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, layers=layers)
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):  # the words of transformers
            raise
        raise BadModel(f"{base.folder}: its weights have other shapes than its config.json says.", "Download the model again.") from error
    return ReferenceEngine(model, device)


def _fast(base: Base, device: Device, lora: Lora, layers: int | None, on_event: OnEvent) -> Engine:
    return open_fast(
        base,
        device,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        layers=layers,
        plan=None if layers is None else Plan(),  # a few layers would all be kept, the whole model's may not fit: measured is what always fits
        memory=_allocator_limit() if device.kind == "cuda" else 0,
        on_event=on_event,
    )


def _allocator_limit() -> int:
    """Bytes that torch's allocator may hold where the caller has limited it; 0 where not."""
    fraction = torch.cuda.get_per_process_memory_fraction()
    return int(fraction * torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory) if fraction < 1 else 0
