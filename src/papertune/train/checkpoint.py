"""Checkpoints: everything a later run needs to go on as if it had never stopped.

    checkpoint-400/
        adapter_config.json, adapter_model.safetensors, papertune.json    the adapter as it is now, in PEFT's format
        optimizer.safetensors                                             the optimiser's tensors
        checkpoint.json                                                   the rest, and the SHA-256 of each file above

A checkpoint is built beside its place; ``checkpoint.json`` is written last and the folder renamed, so a folder of that name is whole
whenever the process was killed. Reading checks every hash, so a folder that a failing disk or a full one has harmed is found and named.
Only safetensors and JSON: reading a checkpoint runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papertune.errors import BadCheckpoint, PapertuneError, from_os_error
from papertune.files import make_folder, sha256_of, sync_folder, write_tensors, write_text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

VERSION = 1
KEEP = 2  # newest whole checkpoints that stay
FINAL = "final"  # the folder of the finished adapter
STATE, OPTIMIZER, ADAPTER = "checkpoint.json", "optimizer.safetensors", "adapter_model.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)")
_REMEDY = "Use another checkpoint, or --resume auto for the newest whole one."


@dataclass(slots=True)
class LoopState:
    """Where a run stands, beside the tensors. ``position`` counts sequences of the stream, ``tokens`` those that were trained on."""

    step: int = 0
    position: int = 0
    tokens: int = 0
    seconds: float = 0.0  # of training, over all runs
    first_bits: float | None = None  # held-out bits per byte before the first step
    last_bits: float | None = None  # and at the last validation
    best_bits: float | None = None  # and at the best after training began
    stale: int = 0  # validations since that one
    validation_seconds: float = 0.0  # of the last one: for the time left
    room: dict[str, int] = field(default_factory=dict)  # by engine: what its micro-batches may hold (``loop.Engine``)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint found whole. ``run`` are the settings and data it belongs to (see ``stage``)."""

    folder: Path
    state: LoopState
    run: dict[str, Any]
    optimizer: dict[str, Any]

    def adapter(self) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        return dict(load_file(self.folder / ADAPTER))

    def optimizer_tensors(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return dict(load_file(self.folder / OPTIMIZER))


def write_checkpoint(
    output: Path,
    state: LoopState,
    run: Mapping[str, Any],
    write_adapter: Callable[[Path], None],
    optimizer_tensors: Mapping[str, np.ndarray],
    optimizer_rest: Mapping[str, Any],
) -> Path:
    """Writes ``checkpoint-STEP`` under ``output`` and drops the oldest beyond KEEP. Raises DiskFull or CannotWrite.

    ``write_adapter`` fills a folder with the adapter.
    """
    place = output / f"checkpoint-{state.step}"
    with folder_in_place_of(place) as beside:
        write_adapter(beside)
        write_tensors(beside / OPTIMIZER, optimizer_tensors)
        content = {
            "version": VERSION,
            "state": asdict(state),
            "run": dict(run),
            "optimizer": dict(optimizer_rest),
            "files": {path.name: sha256_of(path) for path in sorted(beside.iterdir())},
        }
        write_text(beside / STATE, json.dumps({**content, "sha256": _hash(content)}, indent=2) + "\n")
    for old in sorted(_numbered(output), key=_step)[:-KEEP]:
        with suppress(OSError):  # on Windows another program may have a file of it open; the next checkpoint tries again
            discard(old)
    return place


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in this folder, every file's hash checked. Raises BadCheckpoint, naming what is wrong."""
    if not folder.is_dir():
        there = ", ".join(path.name for path in sorted(_numbered(folder.parent), key=_step))
        stand = f" {folder.parent} has {there}; the {KEEP} newest are kept." if there else ""
        raise BadCheckpoint(f"There is no checkpoint at {folder}.{stand}", _REMEDY)
    try:
        content = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise BadCheckpoint(f"{folder} was written by another version of papertune (format {content['version']}).", _REMEDY)
        if content.pop("sha256", None) not in (None, _hash(content)):  # early checkpoints have none
            raise BadCheckpoint(f"{folder / STATE} is not as it was written.", _REMEDY)
        for name, wanted in content["files"].items():
            if sha256_of(folder / name) != wanted:
                raise BadCheckpoint(f"{folder / name} is not as it was written.", _REMEDY)
        if not {ADAPTER, OPTIMIZER} <= set(content["files"]):
            raise BadCheckpoint(f"{folder / STATE} does not list the checkpoint's files.", _REMEDY)
        return Checkpoint(folder, LoopState(**content["state"]), content["run"], content["optimizer"])
    except FileNotFoundError as error:
        raise BadCheckpoint(f"{folder} is not whole: {Path(error.filename).name} is missing.", _REMEDY) from error
    except OSError as error:
        raise BadCheckpoint(f"{folder} cannot be read: {error.strerror}.", _REMEDY) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{folder / STATE} is damaged.", _REMEDY) from error


def newest_checkpoint(output: Path, on_torn: Callable[[PapertuneError], None]) -> Checkpoint | None:
    """The newest whole checkpoint under ``output``; each torn one that is newer is passed to ``on_torn``."""
    for folder in sorted(_numbered(output), key=_step, reverse=True):
        try:
            return read_checkpoint(folder)
        except BadCheckpoint as error:
            on_torn(error)
    return None


def set_aside(output: Path, names: Iterable[str]) -> Path | None:
    """Moves these files and folders of ``output`` into a new ``earlier-N`` there; returns it, or None when none of them exists."""
    present = [output / name for name in names if (output / name).exists()]
    if not present:
        return None
    number = 1
    while (output / f"earlier-{number}").exists():
        number += 1
    earlier = output / f"earlier-{number}"
    make_folder(earlier)
    try:
        for path in present:
            os.replace(path, earlier / path.name)
        sync_folder(output)
    except OSError as error:
        raise from_os_error(error, earlier) from error
    return earlier


def earlier_ones(output: Path) -> list[Path]:
    """The folders that ``set_aside`` has made, the oldest first."""
    return sorted((path for path in output.glob("earlier-*") if path.name[8:].isdecimal()), key=lambda path: int(path.name[8:]))


def bring_back(earlier: Path, output: Path) -> None:
    """Moves what was set aside into its place again: checkpoints after the rest, the newest first, and the finished adapter last, so that a run
    killed meanwhile misses nothing it needs."""
    last = [*sorted(_numbered(earlier), key=_step, reverse=True), *earlier.glob(FINAL)]
    try:
        for path in [*sorted(set(earlier.iterdir()) - set(last)), *last]:
            os.replace(path, output / path.name)
        earlier.rmdir()
        sync_folder(output)
    except OSError as error:
        raise from_os_error(error, output) from error


def checkpoints_after(output: Path, step: int, start: Path | None = None) -> list[str]:
    """Names of the checkpoints under ``output`` that are later than this step, whole or not; ``start``, however it was renamed, is none of them."""
    return [folder.name for folder in sorted(_numbered(output), key=_step) if _step(folder) > step and not (start and folder.samefile(start))]


class folder_in_place_of:  # noqa: N801 - used as a function
    """``with folder_in_place_of(place) as beside``: what is written into ``beside`` becomes ``place`` when the block ends without an exception.

    A folder that stood there gives way only then. Raises DiskFull or CannotWrite.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.beside = place, place.with_name(f".{place.name}.part")

    def __enter__(self) -> Path:
        shutil.rmtree(self.beside, ignore_errors=True)
        make_folder(self.beside)
        return self.beside

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            shutil.rmtree(self.beside, ignore_errors=True)
            return
        try:
            sync_folder(self.beside)
            if self.place.exists():
                discard(self.place)
            os.replace(self.beside, self.place)
            sync_folder(self.place.parent)
        except OSError as failure:
            raise from_os_error(failure, self.place) from failure


def discard(folder: Path) -> None:
    """Deletes a folder in two moves, so that a kill in between never leaves half of it under its name."""
    away = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(away, ignore_errors=True)
    os.replace(folder, away)
    shutil.rmtree(away, ignore_errors=True)


def sweep(output: Path) -> None:
    """Deletes what a killed run left half written or half deleted."""
    for pattern in (".checkpoint-*.part", ".checkpoint-*.old", ".final.*", ".best.*"):
        for path in output.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _numbered(output: Path) -> list[Path]:
    return [path for path in output.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]


def _step(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[1])
