"""The work of the step: every paper into a spool, the choices over all of them, then the two files and what is told about them.

Papers are read, sifted and cut as if each were alone, in several processes when there is much to do. Few turn out to repeat paragraphs of
others; only those are made a second time, without them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from papertune.base import open_base
from papertune.config import PrepareConfig
from papertune.dataset.choosing import Choice, choose
from papertune.dataset.filters import REASONS
from papertune.dataset.making import Batch, Made, counter, line_of, make, shingles_of
from papertune.dataset.mix import Mix
from papertune.dataset.openings import Shape
from papertune.dataset.outputs import CARD, CODE_VERSION, LEFT_OUT, MANIFEST, PAGE, TRAIN, VAL
from papertune.dataset.partitions import Partitions
from papertune.dataset.replay import Replay
from papertune.dataset.report import Contents, card, page
from papertune.dataset.scratch import Scratch
from papertune.dataset.split import sample, validation_groups
from papertune.dataset.spread import spread
from papertune.dataset.writing import Entry, Lines, Spool
from papertune.device import cores
from papertune.events import Notice, OnEvent, Started, Unit
from papertune.files import write_text, writing
from papertune.manifest import Manifest, read_manifest
from papertune.records import Example

_FEW, _USUAL, _MANY = 2, 4, 6  # characters a token: so few that a chunk never gets near its tokens; as in English prose; hardly in any text
_EXTRACTION = ".resume.json"
_SAMPLES = 6  # examples shown in the report
_BATCH = 1 << 20  # bytes of text handed to a process at a time
_SMALL = 6 << 20  # bytes of text that one process makes faster than several would start


def prepare(config: PrepareConfig, files: list[Path], key: str, settings: dict[str, Any], on_event: OnEvent) -> dict[str, Any]:
    """Makes everything from these files; returns the manifest's last item, recorded under ``key``."""
    if config.chunk_size < _FEW * config.max_tokens:
        wanted = f"--chunk-size {_USUAL * config.max_tokens}"
        on_event(
            Notice(
                f"Chunks end at {config.chunk_size:,} characters, long before --max-tokens {config.max_tokens:,}; for whole sections add {wanted}."
            )
        )
    if config.chunk_size > _MANY * config.max_tokens:
        wanted = f"--max-tokens {config.chunk_size // _USUAL}"
        limit = f"--max-tokens {config.max_tokens:,}"
        on_event(Notice(f"Chunks end at {limit}, long before --chunk-size {config.chunk_size:,}; for longer ones add {wanted}."))
    header = {"step": "prepare", "code": CODE_VERSION, "settings": settings, "extraction": _extraction(config.input_dir)}
    place = config.output_dir / MANIFEST
    with Manifest(place, read_manifest(place)[0]) as manifest, Scratch(config.output_dir) as scratch:
        spool, samples, paragraphs = Spool(scratch), Partitions(scratch), Partitions(scratch)
        for number, made in _make_all(config, files, on_event):
            spool.add(number, made)
            samples.add(made.sample, number)
            paragraphs.add(made.paragraphs, number)
        choice = choose(spool.papers(), samples, paragraphs, lambda k: shingles_of(files[k], config.input_dir), config.seed)
        _make_again(config, files, spool, choice.drops)
        entries = spool.papers()
        kept = [k for k in range(len(entries)) if k not in choice.left_out and len(entries[k])]
        validation = _validation(entries, kept, choice, config, on_event)
        with writing(config.output_dir / TRAIN) as train_file, writing(config.output_dir / VAL) as val_file:
            train, val = Lines(train_file), Lines(val_file)
            spool.copy(_capped([entries[k] for k in kept if k not in validation], config), train)
            spool.copy(((entries[k], list(range(len(entries[k])))) for k in kept if k in validation), val)
            replay = _replay(config, train, samples, validation, on_event) if config.replay else None
        copies = {copy.paper: (entries[copy.kept].name, copy.shared, copy.jaccard) for copy in choice.copies}
        states = {k: choice.left_out.get(k) or ("val" if k in validation else "train" if len(e) else "empty") for k, e in enumerate(entries)}
        whole = {
            "states": Counter("ok" if k in kept else state for k, state in states.items()),
            "val_papers": len(validation),
            "language": choice.language,
            "dropped": _dropped(entries),
            "replay": replay,
            "files": {TRAIN: train.figures(), VAL: val.figures()},
        }
        contents = Contents(
            papers=[(e.name, e.source, states[k], len(e)) for k, e in enumerate(entries)],
            copies=[(entries[k].name, *copy) for k, copy in copies.items()],
            whole=whole,
            settings=settings,
            lengths=train.lengths,
            samples=_samples(spool, [entries[k] for k in kept]),
        )
        write_text(config.output_dir / CARD, card(contents))
        write_text(config.output_dir / PAGE, page(contents))
        manifest.start_afresh(header)  # until here the earlier dataset holds, and what is known of it
        for k, entry in enumerate(entries):
            of = dict(zip(("of", "shared", "jaccard"), copies.get(k, ()), strict=False))
            manifest.record(entry.name, source=entry.source, sha256=entry.sha256, state=states[k], chunks=len(entry), **of)
        manifest.record(key, **whole)
        return whole


def _dropped(entries: list[Entry]) -> dict[str, tuple[int, int]]:
    """Paragraphs and characters left out, by reason."""
    paragraphs: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for entry in entries:
        paragraphs.update(entry.dropped)
        characters.update(entry.characters)
    return {reason: (paragraphs[reason], characters[reason]) for reason in REASONS if paragraphs[reason]}


def _samples(spool: Spool, entries: list[Entry]) -> list[Example]:
    """One example each of some papers."""
    some = entries[:: -(-len(entries) // _SAMPLES)]
    lines = [(entry, spool.lines(entry).splitlines()) for entry in some]
    return [Example.from_dict(json.loads(of[(k + 1) * len(of) // (len(lines) + 1)]), entry.name) for k, (entry, of) in enumerate(lines)]


def _make_all(config: PrepareConfig, files: list[Path], on_event: OnEvent) -> Iterator[tuple[int, Made]]:
    """Every paper with its number, as they are done."""
    total = sum(path.stat().st_size for path in files)
    workers = (config.workers or cores()) if total > _SMALL else 1
    on_event(Started("Preparing", len(files), "papers"))
    done = 0
    for batch, papers in spread(make, list(_batches(files, config)), workers):
        for number, made in zip(batch.numbers, papers, strict=True):
            yield number, made
            done += 1
            on_event(Unit(done, made.name))


def _make_again(config: PrepareConfig, files: list[Path], spool: Spool, drops: dict[int, dict[int, str]]) -> None:
    """Those papers once more that have paragraphs of others."""
    batches = [replace(batch, drops=tuple(drops[k] for k in batch.numbers)) for batch in _batches(files, config, sorted(drops))]
    workers = (config.workers or cores()) if len(batches) > _SMALL // _BATCH else 1
    for batch, papers in spread(make, batches, workers):
        for number, made in zip(batch.numbers, papers, strict=True):
            spool.add(number, made)


def _validation(entries: list[Entry], kept: list[int], choice: Choice, config: PrepareConfig, on_event: OnEvent) -> set[int]:
    """The numbers of the papers for validation: whole groups of related papers, unless all papers are one group."""
    group = {k: choice.group[k] for k in kept}
    if len(set(group.values())) == 1 < len(kept):
        on_event(Notice("All papers share text with one another; validation is less strict than it could be.", "warning"))
        group = {k: entries[k].name for k in kept}
    sizes: Counter[str] = Counter()
    for k in kept:
        sizes[group[k]] += len(entries[k])
    left = Counter(choice.left_out.values())
    others = f" Left out: {', '.join(f'{count} {LEFT_OUT[state]}' for state, count in sorted(left.items()))}." if left else ""
    chosen = validation_groups(sizes, config.val_ratio, config.seed, others)
    return {k for k in kept if group[k] in chosen}


def _batches(files: list[Path], config: PrepareConfig, numbers: Sequence[int] | None = None) -> Iterator[Batch]:
    """The files with these numbers (all, when None) in batches of about ``_BATCH`` bytes."""
    folder = tokenizer_folder(config.tokenizer)
    shape = _shape(config)
    waiting: list[int] = []
    size = 0
    for k in range(len(files)) if numbers is None else numbers:
        waiting.append(k)
        size += files[k].stat().st_size
        if size >= _BATCH:
            yield Batch(tuple(waiting), tuple(files[n] for n in waiting), config.input_dir, folder, shape)
            waiting, size = [], 0
    if waiting:
        yield Batch(tuple(waiting), tuple(files[n] for n in waiting), config.input_dir, folder, shape)


def _shape(config: PrepareConfig) -> Shape:
    return Shape(config.chunk_size, config.overlap, config.max_tokens, Mix.of(config.mix))


def tokenizer_folder(name: str) -> Path:
    """The folder with the tokenizer of this model, whose weights need not be there when it is a local one."""
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else open_base(name).folder


def _capped(entries: list[Entry], config: PrepareConfig) -> Iterator[tuple[Entry, list[int]]]:
    """The training papers with the places of the examples that ``--max-samples`` leaves."""
    total = sum(map(len, entries))
    cap = config.max_samples or total
    if config.replay and config.max_samples:
        cap -= round(cap * config.replay_share)
    kept = iter(sample(total, cap, config.seed))
    place = next(kept, total)
    base = 0
    for entry in entries:
        places = []
        while place < base + len(entry):
            places.append(place - base)
            place = next(kept, total)
        yield entry, places
        base += len(entry)


def _replay(config: PrepareConfig, train: Lines, samples: Partitions, validation: set[int], on_event: OnEvent) -> dict[str, Any]:
    """Adds general text to the training examples until it has its share of the tokens, or ``--max-samples`` is reached."""
    assert config.replay is not None
    papers = np.fromiter(validation, np.int64)
    held_out = np.unique(np.concatenate([np.zeros(0, np.uint64), *(hashes[np.isin(owners, papers)] for hashes, owners in samples)]))
    replay = Replay(config.replay, _shape(config), counter(tokenizer_folder(config.tokenizer)), config.seed, held_out)
    before, wanted = train.examples, train.tokens * config.replay_share / (1 - config.replay_share)
    tokens = 0
    for example, cost in replay.examples():
        if tokens + cost > wanted or train.examples == config.max_samples:
            break
        train.add(line_of(example), [cost])
        tokens += cost
    else:
        share = tokens / train.tokens
        on_event(Notice(f"{config.replay} has text for {share:.1%} of the training tokens only; all of it is used.", "warning"))
    if replay.left_out:
        on_event(Notice(f"{replay.left_out:,} passages of {config.replay} stand in the validation papers and were left out.", "warning"))
    return {"source": config.replay.name, "sha256": replay.sha256, "examples": train.examples - before, "tokens": tokens}


def _extraction(folder: Path) -> str:
    """The hash of the header of extraction's manifest, "" when the text is a person's own."""
    header = read_manifest(folder / _EXTRACTION)[0]
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest() if header else ""
