"""Step 2: the text files of extraction, or a person's own, to ``train.jsonl`` and ``val.jsonl``.

``dataset.json`` is the manifest: its last item says from what and with which settings the two files were made, and is written when both are
whole on disk. The files' bytes depend on input and settings alone. Here is what it takes to see that nothing has changed; ``preparing`` does
the work.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from papertune.config import PrepareConfig, TrainConfig
from papertune.dataset.estimate import disk_in_words, estimate, measured, work
from papertune.dataset.filters import REASONS
from papertune.dataset.mix import Mix
from papertune.dataset.outputs import CARD, CODE_VERSION, LEFT_OUT, MANIFEST, PAGE, TRAIN, VAL
from papertune.dataset.read import find_papers, sidecar_of
from papertune.device import disk_free, gpus
from papertune.errors import BadDataset, FolderUnreadable
from papertune.events import Notice, OnEvent, Report, ignore
from papertune.files import make_folder, sha256_of
from papertune.manifest import key_of, read_manifest

_NO_EFFECT = ("input_dir", "output_dir", "workers", "gpu", "trained")  # settings that do not change the bytes


def run(config: PrepareConfig, *, on_event: OnEvent = ignore) -> Report:
    """Prepares the dataset, or finds that nothing has changed since the last time.

    Raises FolderMissing, FolderUnreadable, NoInputFiles, TooFewPapers, BadModel, MissingLibrary, ModelAccess, Busy, DiskFull, CannotWrite.
    """
    Mix.of(config.mix)  # said before any work
    files = find_papers(config.input_dir, config.output_dir, lambda text: on_event(Notice(text, "warning")))
    settings = {name: value for name, value in asdict(config).items() if name not in _NO_EFFECT}
    key = key_of(_content(files, config), settings, CODE_VERSION)
    make_folder(config.output_dir)
    whole = _unchanged(config.output_dir, key)
    training = "papertune train"
    if config.output_dir != PrepareConfig().output_dir:
        training += "".join(f" --{kind}-file {shlex.quote(str(config.output_dir / name))}" for kind, name in (("train", TRAIN), ("val", VAL)))
    if config.max_tokens != TrainConfig().max_seq_len:
        training += f" --max-seq-len {config.max_tokens}"
    written = [config.output_dir / name for name in (TRAIN, VAL, MANIFEST, CARD, PAGE)]
    report = Report("prepare", written=written, next_command=training)
    if whole is None:
        from papertune.dataset.preparing import prepare

        whole = prepare(config, files, key, settings, on_event)
        report.states.update(whole["states"])
    else:
        report.fresh = True
        report.states["fresh"] = sum(whole["states"].values())
    _summarise(report, whole, config)
    return report


def _content(files: list[Path], config: PrepareConfig) -> str:
    """One hash over names and bytes of all that is read."""
    digest = hashlib.sha256()
    for part in (part for path in files for part in (path, sidecar_of(path)) if part.is_file()):
        try:
            digest.update(f"{part.relative_to(config.input_dir).as_posix()!r} {sha256_of(part)}\n".encode())
        except OSError as error:
            raise FolderUnreadable(f"{part} cannot be read: {error.strerror}.", "Check the file's permissions.") from error
    if config.replay:
        try:
            digest.update(sha256_of(config.replay).encode())
        except OSError as error:
            raise BadDataset(f"--replay {config.replay} cannot be read: {error.strerror}.", "Name a file of general text.") from error
    return digest.hexdigest()


def _unchanged(folder: Path, key: str) -> dict[str, Any] | None:
    """What an earlier run recorded under this key, if its files are still as it wrote them."""
    item = read_manifest(folder / MANIFEST)[1].get(key)
    if item is None or not all((folder / name).is_file() for name in (CARD, PAGE)):
        return None
    for name, figures in item["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != figures["bytes"] or sha256_of(path) != figures["sha256"]:
            return None
    return item


def _summarise(report: Report, whole: dict[str, Any], config: PrepareConfig) -> None:
    train, val = whole["files"][TRAIN], whole["files"][VAL]
    report.summary += [
        ("Papers", f"{whole['states']['ok']:,} ({whole['val_papers']:,} for validation)"),
        *[("Left out", f"{count:,} of the files: {LEFT_OUT[state]}") for state, count in sorted(whole["states"].items()) if state != "ok"],
        *[("Dropped", f"{blocks:,} paragraphs: {REASONS[reason]}") for reason, (blocks, _) in whole["dropped"].items()],
        ("Training examples", f"{train['examples']:,} ({train['tokens']:,} tokens)"),
        ("Validation examples", f"{val['examples']:,} ({val['tokens']:,} tokens)"),
    ]
    if replay := whole["replay"]:
        share = replay["tokens"] / train["tokens"]
        report.summary.append(("General text", f"{replay['examples']:,} of the training examples ({share:.1%} of the tokens)"))
    defaults = TrainConfig()
    report.closing += [
        ("Training", work(train["examples"], train["tokens"], defaults.batch_size * defaults.grad_accum)),
        ("Disk for the next steps", f"{disk_in_words()}; {disk_free(config.output_dir) / 1e9:.0f} GB are free here"),
        ("Estimated training time", _time(train["tokens"], config, defaults.epochs)),
    ]


def _time(tokens: int, config: PrepareConfig, epochs: int) -> str:
    """How long training takes: measured where it has run, unless another card is asked for; else estimated."""
    if not config.gpu and (speed := measured(config.trained)):
        return speed.words(tokens, epochs)
    found = config.gpu or next((g.name for g in gpus()), "")
    return estimate(tokens, found).words(epochs)
