"""Step 2: the text files of extraction, or a person's own, to ``train.jsonl`` and ``val.jsonl``.

Papers are read, cut into chunks and written to a spool, in several processes when there is much to do; then each paper goes to one of the
two files as a whole. ``dataset.json`` is the manifest: its last item says from what and with which settings the two files were made, and
is written when both are whole on disk. The files' bytes depend on input and settings alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from papertune.base import open_base
from papertune.config import PrepareConfig
from papertune.dataset.estimate import estimate
from papertune.dataset.examples import Shape
from papertune.dataset.making import Batch, make
from papertune.dataset.read import find_papers, sidecar_of
from papertune.dataset.split import sample, validation_papers
from papertune.dataset.spread import spread
from papertune.dataset.writing import Entry, Spool, Written
from papertune.device import cores, gpus
from papertune.events import Notice, OnEvent, Report, Started, Unit, ignore
from papertune.files import make_folder, sha256_of
from papertune.manifest import Manifest, key_of, read_manifest

CODE_VERSION = 1
"""Raised when this room would write something else for the same input."""

TRAIN, VAL, MANIFEST = "train.jsonl", "val.jsonl", "dataset.json"
_EXTRACTION = ".resume.json"
_EPOCHS = 2  # the default of training
_BATCH = 1 << 20  # bytes of text handed to a process at a time
_SMALL = 6 << 20  # bytes of text that one process makes faster than several would start
_NO_EFFECT = ("input_dir", "output_dir", "workers", "gpu")  # settings that do not change the bytes


def run(config: PrepareConfig, *, on_event: OnEvent = ignore) -> Report:
    """Prepares the dataset, or finds that nothing has changed since the last time.

    Raises FolderMissing, FolderUnreadable, NoInputFiles, TooFewPapers, BadModel, MissingLibrary, ModelAccess, Busy, DiskFull, CannotWrite.
    """
    files = find_papers(config.input_dir, config.output_dir)
    settings = {name: value for name, value in asdict(config).items() if name not in _NO_EFFECT}
    key = key_of(_content(files, config.input_dir), settings, CODE_VERSION)
    make_folder(config.output_dir)
    whole = _unchanged(config.output_dir, key)
    report = Report("prepare", written=[config.output_dir / name for name in (TRAIN, VAL, MANIFEST)], next_command="python finetune.py")
    if whole is None:
        whole = _prepare(config, files, key, settings, on_event)
        report.states["ok"] = whole["papers"]
    else:
        report.fresh = True
        report.states["fresh"] = whole["papers"]
    _summarise(report, whole, config)
    return report


def _prepare(config: PrepareConfig, files: list[Path], key: str, settings: dict[str, Any], on_event: OnEvent) -> dict[str, Any]:
    header = {"step": "prepare", "code": CODE_VERSION, "settings": settings, "extraction": _extraction(config.input_dir)}
    with Manifest(config.output_dir / MANIFEST, header, resume=False) as manifest, Spool(config.output_dir) as spool:
        _make_all(config, files, spool, on_event)
        chosen = validation_papers({e.name: len(e) for e in spool.papers()}, config.val_ratio, config.seed)
        empty = [entry.name for entry in spool.papers() if not len(entry)]
        if empty:
            names = ", ".join(empty[:3]) + (" …" if len(empty) > 3 else "")
            on_event(Notice(f"{len(empty)} of {len(files)} files have no text to learn from: {names}", "warning"))
        train = spool.write(config.output_dir / TRAIN, _training(spool, chosen, config))
        val = spool.write(config.output_dir / VAL, ((e, list(range(len(e)))) for e in spool.papers() if e.name in chosen))
        for entry in spool.papers():
            side = "val" if entry.name in chosen else "train"
            manifest.record(entry.name, source=entry.source, sha256=entry.sha256, chunks=len(entry), side=side if len(entry) else "")
        papers = len(files) - len(empty)
        manifest.record(key, papers=papers, val_papers=len(chosen), files={w.path.name: _figures(w) for w in (train, val)})
        return dict(manifest.items[key])


def _make_all(config: PrepareConfig, files: list[Path], spool: Spool, on_event: OnEvent) -> None:
    """Every paper into the spool."""
    shape = Shape(config.chunk_size, config.overlap, config.max_tokens)
    batches = list(_batches(files, config, shape))
    total = sum(path.stat().st_size for path in files)
    workers = (config.workers or cores()) if total > _SMALL else 1
    on_event(Started("Preparing", len(files), "papers"))
    done = 0
    for batch, papers in spread(make, batches, workers):
        for number, made in zip(batch.numbers, papers, strict=True):
            spool.add(number, made)
            done += 1
            on_event(Unit(done, made.name))


def _batches(files: list[Path], config: PrepareConfig, shape: Shape) -> Iterator[Batch]:
    folder = tokenizer_folder(config.tokenizer)
    first = size = 0
    for k, path in enumerate(files):
        size += path.stat().st_size
        if size >= _BATCH or k == len(files) - 1:
            yield Batch(tuple(range(first, k + 1)), tuple(files[first : k + 1]), config.input_dir, folder, shape)
            first, size = k + 1, 0


def tokenizer_folder(name: str) -> Path:
    """The folder with the tokenizer of this model, whose weights need not be there when it is a local one."""
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else open_base(name).folder


def _training(spool: Spool, validation: set[str], config: PrepareConfig) -> Iterator[tuple[Entry, list[int]]]:
    """The training papers with the places of the examples that ``--max-samples`` leaves."""
    entries = [entry for entry in spool.papers() if entry.name not in validation]
    total = sum(map(len, entries))
    kept = iter(sample(total, config.max_samples or total, config.seed))
    place = next(kept, total)
    base = 0
    for entry in entries:
        places = []
        while place < base + len(entry):
            places.append(place - base)
            place = next(kept, total)
        yield entry, places
        base += len(entry)


def _content(files: list[Path], folder: Path) -> str:
    """One hash over names and bytes of all that is read."""
    digest = hashlib.sha256()
    for path in files:
        for part in (path, sidecar_of(path)):
            if part.is_file():
                digest.update(f"{part.relative_to(folder).as_posix()!r} {sha256_of(part)}\n".encode())
    return digest.hexdigest()


def _extraction(folder: Path) -> str:
    """The hash of the header of extraction's manifest, "" when the text is a person's own."""
    header = read_manifest(folder / _EXTRACTION)[0]
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest() if header else ""


def _unchanged(folder: Path, key: str) -> dict[str, Any] | None:
    """What an earlier run recorded under this key, if its files are still as it wrote them."""
    item = read_manifest(folder / MANIFEST)[1].get(key)
    if item is None:
        return None
    for name, figures in item["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != figures["bytes"] or sha256_of(path) != figures["sha256"]:
            return None
    return item


def _figures(written: Written) -> dict[str, Any]:
    return {"sha256": written.sha256, "bytes": written.size, "examples": written.examples, "tokens": written.tokens}


def _summarise(report: Report, whole: dict[str, Any], config: PrepareConfig) -> None:
    train, val = whole["files"][TRAIN], whole["files"][VAL]
    report.summary += [
        ("Papers", f"{whole['papers']:,} ({whole['val_papers']:,} for validation)"),
        ("Training examples", f"{train['examples']:,} ({train['tokens']:,} tokens)"),
        ("Validation examples", f"{val['examples']:,} ({val['tokens']:,} tokens)"),
        ("Estimated training time", _hours(train["tokens"], config.gpu)),
    ]


def _hours(tokens: int, gpu: str) -> str:
    found = gpu or next((g.name for g in gpus()), "")
    return estimate(tokens, found).words(_EPOCHS)
