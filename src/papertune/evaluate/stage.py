"""Did it get better, and did it copy? Every model on the same held-out papers and on general text, into ``evaluation.json`` and ``.md``.

Each paper under each model is one unit, journalled in ``.resume.json``: a run that was stopped goes on with the next one, and a run with
nothing new measures nothing. Figures depend on models, texts and settings alone, to the last digit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from papertune.base import open_base
from papertune.config import EvaluateConfig
from papertune.errors import BadDataset
from papertune.evaluate.passages import Paper, documents, read_papers
from papertune.evaluate.perplexity import Interval, Measured, bits_per_byte, change, measure
from papertune.evaluate.results import as_markdown, in_words, writing_in_words
from papertune.evaluate.subjects import Subject, Subjects
from papertune.evaluate.writing import write_sections
from papertune.events import Notice, OnEvent, Report, Started, Unit, ignore
from papertune.files import make_folder, write_text
from papertune.manifest import Manifest, key_of
from papertune.tokenizer import open_tokenizer

CODE_VERSION = 1
"""Raised when this room would measure something else for the same input."""

HELD_OUT, GENERAL = "held-out papers", "general text"
_BUILT_IN = "built-in general text"
_FORGOTTEN = 1.0  # percent more bits on general text from which on it is told how to forget less


def run(config: EvaluateConfig, *, on_event: OnEvent = ignore) -> Report:
    """Raises BadAdapter, BadModel, BadGguf, BadDataset, ModelAccess, MissingLibrary, OutOfMemory, Busy, DiskFull or CannotWrite."""
    subjects = Subjects(config)
    texts = {HELD_OUT: read_papers(config.val_file), GENERAL: _general(config.general_file)}
    make_folder(config.output_dir)
    header = {"step": "evaluate", "code": CODE_VERSION, "models": {s.name: s.fingerprint for s in subjects.all}}
    report = Report("evaluate", next_command='papertune write "A TITLE"')
    with Manifest(config.output_dir / ".resume.json", header) as manifest:
        measuring = _Measuring(config, texts, manifest, on_event)
        measuring.all(subjects)
        results = _results(config, subjects.all, measuring, on_event)
        results["writing"] = write_sections(config, subjects, texts[HELD_OUT], manifest, on_event)
    _say_what_was_forgotten(results, on_event)
    written = [text for model in (results["writing"] or {"models": ()})["models"] for text in model["texts"]]
    results["copies"] = _copies(config, texts[HELD_OUT], written, on_event)
    figures = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    for name, text in (("evaluation.json", figures), ("evaluation.md", as_markdown(results, (HELD_OUT, GENERAL)))):
        write_text(config.output_dir / name, text)
        report.written.append(config.output_dir / name)
    report.states.update({"ok": measuring.new, "fresh": measuring.old} if measuring.new else {"fresh": measuring.old})
    report.fresh = not measuring.new
    report.summary = _summary(results)
    return report


def _general(path: Path | None) -> list[Paper]:
    if path is not None:
        return read_papers(path)
    text = (resources.files("papertune.evaluate") / "general.txt").read_text(encoding="utf-8")
    return documents(text, _BUILT_IN)


@dataclass
class _Measuring:
    """All texts under all models. ``done`` is by (kind of text, subject's fingerprint): the papers in order, None where nothing could be measured."""

    config: EvaluateConfig
    texts: Mapping[str, Sequence[Paper]]
    manifest: Manifest
    on_event: OnEvent
    new: int = 0
    old: int = 0
    done: dict[tuple[str, str], list[Measured | None]] = field(default_factory=dict)

    def all(self, subjects: Subjects) -> None:
        keys = {s.name: {kind: [self._key(s, paper) for paper in papers] for kind, papers in self.texts.items()} for s in subjects.all}
        missing = [s for s in subjects.all if any(key not in self.manifest.items for of_kind in keys[s.name].values() for key in of_kind)]
        total = sum(len(of_kind) for kinds in keys.values() for of_kind in kinds.values())
        self.old = sum(key in self.manifest.items for kinds in keys.values() for of_kind in kinds.values() for key in of_kind)
        self.on_event(Started("Measuring", total, "texts", self.old))
        with closing(subjects.opened(missing)) as opened:
            for subject, model in opened:
                for kind, papers in self.texts.items():
                    for key, paper in zip(keys[subject.name][kind], papers, strict=True):
                        if key not in self.manifest.items:
                            measured = measure(model, paper)
                            self.manifest.record(key, model=subject.name, paper=paper.name, measured=asdict(measured) if measured else None)
                            self.new += 1
                            figures = {"bits per byte": f"{measured.bits_per_byte:.3f}"} if measured else {}
                            self.on_event(Unit(self.old + self.new, f"{subject.name}: {paper.name}", figures))
        for subject in subjects.all:
            for kind in self.texts:
                items = [self.manifest.items[key]["measured"] for key in keys[subject.name][kind]]
                self.done[kind, subject.name] = [Measured(**item) if item else None for item in items]

    def _key(self, subject: Subject, paper: Paper) -> str:
        read = [{"prompt": p.prompt, "text": p.text, "known": p.known} for p in paper.passages]
        content = hashlib.sha256(json.dumps(read).encode()).hexdigest()
        return key_of(content, {"model": subject.fingerprint, "kind": subject.kind, "context": self.config.context}, CODE_VERSION)


def _results(config: EvaluateConfig, subjects: Sequence[Subject], measuring: _Measuring, on_event: OnEvent) -> dict[str, Any]:
    """What ``evaluation.json`` holds. Papers in which some model could measure nothing are left out for all."""
    kept = {kind: _measurable(kind, subjects, measuring) for kind in measuring.texts}
    for kind, numbers in kept.items():
        left_out = len(measuring.texts[kind]) - len(numbers)
        if left_out:
            on_event(Notice(f"{left_out} of the {kind} are empty and not measured.", "warning"))
    models = []
    figures: dict[tuple[str, str], list[Measured]] = {}
    for subject in subjects:
        entry: dict[str, Any] = {"name": subject.name, "kind": subject.kind, "fingerprint": subject.fingerprint}
        for kind, numbers in kept.items():
            measured = [m for i in numbers if (m := measuring.done[kind, subject.name][i]) is not None]
            figures[kind, subject.name] = measured
            names = [measuring.texts[kind][i].name for i in numbers]
            entry[kind] = {
                **asdict(bits_per_byte(measured, config.seed)),
                "papers": [{"name": name, **asdict(m), "bits_per_byte": m.bits_per_byte} for name, m in zip(names, measured, strict=True)],
            }
        models.append(entry)
    changes = []
    for before, after in _pairs(subjects):
        differences = {kind: _change(figures[kind, before.name], figures[kind, after.name], config.seed) for kind in kept}
        changes.append({"from": before.name, "to": after.name, **differences})
    return {"version": 1, "unit": "bits per byte", "context": config.context, "seed": config.seed, "models": models, "changes": changes}


def _measurable(kind: str, subjects: Sequence[Subject], measuring: _Measuring) -> list[int]:
    numbers = [i for i in range(len(measuring.texts[kind])) if all(measuring.done[kind, s.name][i] is not None for s in subjects)]
    if not numbers:
        raise BadDataset(f"Nothing can be measured on the {kind}: they hold no text.", "Name others with --val-file or --general-file.")
    return numbers


def _pairs(subjects: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    """What is compared: the tuned model with its base, each GGUF with the tuned model, or with the first GGUF where there is none."""
    first = next((s for s in subjects if s.kind == "tuned"), subjects[0])
    pairs = [(subjects[0], first)] if first is not subjects[0] else []
    return pairs + [(first, s) for s in subjects if s.kind == "gguf" and s is not first]


def _change(before: Sequence[Measured], after: Sequence[Measured], seed: int) -> dict[str, Any]:
    difference: Interval = change(before, after, seed)
    return {**asdict(difference), "percent": 100 * difference.value / bits_per_byte(before, seed).value}


def _say_what_was_forgotten(results: Mapping[str, Any], on_event: OnEvent) -> None:
    """How to forget less, where a tuned model has clearly become worse at general text. See docs/experiments.md for what the advice rests on."""
    tuned = {model["name"] for model in results["models"] if model["kind"] == "tuned"}
    for pair in results["changes"]:
        general = pair[GENERAL]
        if pair["to"] in tuned and general["percent"] > _FORGOTTEN and (general["low"] is None or general["low"] > 0):
            how = "Run finetune.py again with --lora-strength 0.6, which trains nothing; better, also train with prepare_dataset.py --replay FILE."
            on_event(Notice(f"{general['percent']:.1f} % worse at general text. {how}"))


def _copies(config: EvaluateConfig, papers: Sequence[Paper], written: Sequence[dict[str, Any]], on_event: OnEvent) -> dict[str, Any] | None:
    """What the held-out papers share word for word with the training text: the measure for what a model may share with it, and proof that the
    split holds. What models have ``written`` gets its own ``copies``. None without training data."""
    if not config.train_file.exists():
        on_event(Notice(f"{config.train_file} is not here, so held-out papers were not compared with it."))
        return None
    from papertune.training_text import LEAST_TOKENS, TrainingText  # numpy, for which --help need not wait

    tokenizer = open_tokenizer(open_base("tiny").folder)  # Mistral's: sizes of copies are told in its tokens
    against = TrainingText(config.train_file, config.text_dir)
    entries = []
    for paper in papers:
        comparison = against.compare("\n\n".join(p.text[p.known :] for p in paper.passages), lambda text: len(tokenizer.encode(text)))
        copies = [{"tokens": found.tokens, "from": found.place, "text": found.text} for found in comparison.long]
        entries.append({"name": paper.name, "share": comparison.share, "longest": comparison.longest, "copies": copies})
    for text in written:
        long = against.compare(text["text"], lambda words: len(tokenizer.encode(words))).long
        text["copies"] = [{"start": f.copy.start, "end": f.copy.end, "tokens": f.tokens, "from": f.place} for f in long]
    return {"training_words": against.collection.words, "least_tokens": LEAST_TOKENS, "papers": entries}


def _summary(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(f"{model['name']}, {kind}", in_words(model[kind])) for model in results["models"] for kind in (HELD_OUT, GENERAL)]
    rows += [(f"change to {c['to']}, {kind}", in_words(c[kind], signed=True)) for c in results["changes"] for kind in (HELD_OUT, GENERAL)]
    if writing := results["writing"]:
        rows += [(f"{model['name']}, writing", writing_in_words(model, writing)) for model in writing["models"]]
    if copies := results["copies"]:
        longest = max(paper["longest"] for paper in copies["papers"])
        long = sum(len(paper["copies"]) for paper in copies["papers"])
        rows.append(("copies in held-out papers", f"{long} of {copies['least_tokens']} tokens or more; longest {longest} tokens"))
    return rows
