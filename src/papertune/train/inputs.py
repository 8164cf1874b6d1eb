"""What a run is made from, checked before any work: files, base model, schedule, libraries."""

from __future__ import annotations

import logging
import math
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from papertune.base import Base, open_base
from papertune.config import TrainConfig
from papertune.device import FOR_A_GPU, gpus, on_windows
from papertune.errors import BadDataset, BadValue, MissingLibrary, TooFewPapers
from papertune.events import Notice, OnEvent, Started
from papertune.family import Family
from papertune.files import sha256_of
from papertune.tokenizer import Tokenizer
from papertune.train.batches import Sequences, read_sequences

if TYPE_CHECKING:
    from papertune.train.checkpoint import LoopState
    from papertune.train.engines import Lora
    from papertune.train.loop import Schedule
    from papertune.train.model import Device

ADVICE = (
    "Close other programs that use the GPU, then try in this order: --max-seq-len 256; --lora-rank 8; --target-modules q_proj,k_proj,v_proj,o_proj."
)  # when memory is not enough: the specification's, in its order


def open_checked(config: TrainConfig) -> Base:
    """The base model, with all of ``--target-modules`` in it. Raises BadModel, UnsupportedModel, ModelAccess, BadValue."""
    base = open_base(config.model)
    check_targets(config, base.family)
    return base


def check_targets(config: TrainConfig, family: Family) -> None:
    for target in config.target_modules:
        if target not in family.projections:
            raise BadValue(f"--target-modules: {target} is no projection of this model.", f"Choose from: {', '.join(family.projections)}.")


def read_data(config: TrainConfig, tokenizer: Tokenizer, on_event: OnEvent) -> tuple[Sequences, Sequences]:
    """Training and held-out sequences. Raises BadDataset or TooFewPapers when there is nothing to train on or to measure with."""
    on_event(Started("Reading the examples", None, "examples"))
    train_data = read_sequences(config.train_file, tokenizer, config.max_seq_len, on_event)
    held_out = read_sequences(config.val_file, tokenizer, config.max_seq_len)
    if not len(train_data):
        raise BadDataset(f"{config.train_file} holds no examples.", "Run prepare_dataset.py on more text.")
    if not len(held_out):
        raise TooFewPapers(
            f"{config.val_file} holds no examples, so nothing can tell whether training helps.", "Prepare a dataset of at least two papers."
        )
    if train_data.split:
        on_event(
            Notice(
                f"{train_data.split} of {train_data.examples} examples are longer than --max-seq-len {config.max_seq_len}: "
                f"they were split, which makes {len(train_data)} sequences."
            )
        )
    longest = max(len(item.ids) for item in train_data.items)
    if config.max_seq_len > TrainConfig().max_seq_len and longest <= config.max_seq_len // 2:
        on_event(
            Notice(
                f"No example is longer than {longest} tokens, so --max-seq-len {config.max_seq_len} changes nothing. "
                f"For longer ones: prepare_dataset.py --max-tokens {config.max_seq_len} --chunk-size {4 * config.max_seq_len}"
            )
        )
    both = train_data.papers & held_out.papers
    if both:
        on_event(Notice(f"{len(both)} papers stand in training and in validation: the validation loss will look too good.", "warning"))
    return train_data, held_out


def hash_of(path: Path, flag: str) -> str:
    """The file's SHA-256. Raises BadDataset."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise BadDataset(f"{path} cannot be read: {error.strerror}.", f"Run prepare_dataset.py first, or name the file with {flag}.") from error


def schedule(config: TrainConfig, sequences: int, base: Base, state: LoopState) -> Schedule:
    """Of the whole run. What is before ``state`` was trained in whatever batches it was."""
    from papertune.train.loop import Schedule

    total = config.epochs * sequences
    if config.max_steps is not None:
        total = min(total, state.position + max(0, config.max_steps - state.step) * config.batch_size * config.grad_accum)
    return Schedule(
        total=total,
        batch_size=config.batch_size,
        grad_accum=config.grad_accum,
        lr=config.lr,
        seed=config.seed,
        worst=2 * math.log(base.config["vocab_size"]),  # twice what guessing blindly costs
        save_steps=config.save_steps,
        save_minutes=config.save_minutes,
        eval_steps=config.eval_steps,
        patience=config.patience,
    )


def lora(config: TrainConfig) -> Lora:
    from papertune.train.engines import Lora

    return Lora(config.lora_rank, config.lora_alpha, config.lora_dropout, config.target_modules)


def set_up_allocator() -> None:
    """Keeps a nearly full card from running out by fragments. Read when CUDA starts. Windows does not support it, and Linux under it fails at
    the first tensor on some cards (PyTorch issue 192330)."""
    if not on_windows():
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def choose(config: TrainConfig, base: Base, on_event: OnEvent) -> tuple[Device, str, str]:
    """What will train, all that it needs imported: the device, the engine's name and why that one. Warns of an NVIDIA GPU that is here and that
    torch does not see. Raises MissingLibrary or BadValue."""
    _import("torch")
    import torch

    from papertune.train import model
    from papertune.train.engines import choose_engine, libraries

    device = model.choose_device()
    if device.kind == "cpu" and (idle := gpus()):
        on_event(Notice(f"{idle[0].name} is not used: torch {torch.__version__} does not see it. To train on it, {FOR_A_GPU}.", "warning"))
    name, why = choose_engine(config.engine, base, device)
    _import(*libraries(name, device))
    return device, name, why


def _import(*names: str) -> None:
    """Raises MissingLibrary."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # without a GPU it tells which of its kernels it lacks
    try:
        for name in names:
            import_module(name)
    except ImportError as error:
        raise MissingLibrary(f"{error.name or error} is needed for training and does not import.", "Run: papertune doctor") from error
