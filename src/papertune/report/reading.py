"""From the files of a run (``docs/formats.md``) to ``Facts``.

A step whose files are missing or damaged is ``Absent``; the others are told all the same.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from papertune.adapter import WEIGHTS, open_adapter
from papertune.config import ReportConfig
from papertune.errors import BadAdapter, BadGguf
from papertune.events import Notice, OnEvent, Started, Unit
from papertune.files import sha256_of
from papertune.manifest import read_manifest
from papertune.report.facts import (
    Absent,
    Change,
    Continuation,
    Copied,
    CopiedSpan,
    Corpus,
    Dataset,
    DatasetPaper,
    Evaluation,
    Examples,
    Facts,
    Figure,
    InputFile,
    Measured,
    Model,
    Sample,
    Step,
    Style,
    Training,
    Validation,
)
from papertune.report.gguf import read_gguf

MANIFEST, DATASET, EVENTS, EVALUATION = ".resume.json", "dataset.json", "events.jsonl", "evaluation.json"
_TITLE = 300  # characters of a title that are shown

Found = TypeVar("Found")


def read_facts(config: ReportConfig, on_event: OnEvent) -> Facts:
    """Reads everything there is. What is missing is no error; ``on_event`` is told of files that are damaged."""

    def reading(file: Path, command: str, read: Callable[[], Found]) -> Found | Absent:
        if not file.exists():
            return Absent(f"{file} is not there yet.", command)
        try:
            return read()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, BadAdapter, BadGguf) as error:
            absent = Absent(f"{file} cannot be read: {_in_words(error)}.", command)
            on_event(Notice(absent.why, "warning"))
            return absent

    manifest, dataset = config.text_dir / MANIFEST, config.dataset_dir / DATASET
    events, evaluation = config.lora_dir / EVENTS, config.evaluation_dir / EVALUATION
    return Facts(
        corpus=reading(manifest, "papertune extract", partial(read_corpus, config.text_dir, on_event)),
        dataset=reading(dataset, "papertune prepare", partial(read_dataset, config.dataset_dir)),
        training=reading(events, "papertune train", partial(read_training, config.lora_dir)),
        evaluation=reading(evaluation, _evaluate(config), partial(read_evaluation, evaluation)),
        ggufs=[reading(path, "papertune export", partial(read_gguf, path)) for path in config.gguf],
        newest=max((path.stat().st_mtime for path in (dataset, events, evaluation, *config.gguf) if path.exists()), default=0.0),
    )


def read_corpus(folder: Path, on_event: OnEvent) -> Corpus:
    header, items = read_manifest(folder / MANIFEST)
    if not header:
        raise ValueError("it is no manifest")
    on_event(Started("Counting words", len(items), "files"))
    files = []
    for done, item in enumerate(items.values(), 1):
        files.append(_input_file(folder, item))
        on_event(Unit(done, files[-1].name))
    settings = {name: value for name, value in header.items() if name != "step"}
    return Corpus(folder, files, settings, hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest())


def read_dataset(folder: Path) -> Dataset:
    header, items = read_manifest(folder / DATASET)
    finished = [item for item in items.values() if "files" in item]
    if not finished:
        raise ValueError("the dataset was not finished")
    whole = finished[-1]
    papers = [
        DatasetPaper(item["key"], item["source"], item["sha256"], item["state"], item["chunks"], str(item.get("of", "")), item.get("shared"))
        for item in items.values()
        if "chunks" in item
    ]
    return Dataset(
        folder=folder,
        papers=papers,
        train=_examples(folder / "train.jsonl", whole["files"]["train.jsonl"]),
        val=_examples(folder / "val.jsonl", whole["files"]["val.jsonl"]),
        dropped=[(reason, paragraphs, characters) for reason, (paragraphs, characters) in whole["dropped"].items()],
        language=whole["language"],
        settings=header["settings"],
        extraction=header["extraction"],
    )


def read_training(folder: Path) -> Training:
    steps, validations, checkpoints = [], [], 0
    start: Mapping[str, Any] = {}
    plan: Mapping[str, Any] = {}
    for event in _json_lines(folder / EVENTS):
        match event["event"]:
            case "step":
                steps.append(
                    Step(event["step"], float(event["loss"]), float(event["lr"]), float(event["tokens_per_second"]), float(event["peak_memory"]))
                )
            case "validation":
                validations.append(Validation(event["step"], float(event["loss"]), float(event["bits_per_byte"])))
            case "start":
                start = event
            case "plan":
                plan = event
            case "checkpoint":
                checkpoints += 1
    state = _newest_state(folder)
    try:
        final = open_adapter(folder / "final")
    except BadAdapter:
        final = None
    weights = folder / "final" / WEIGHTS
    return Training(
        folder=folder,
        steps=steps,
        validations=validations,
        checkpoints=checkpoints,
        tokens=int(state.get("tokens", 0)),
        seconds=float(state.get("seconds", 0.0)),
        start=start,
        plan=plan,
        run=final.provenance["run"] if final else {},
        bits=final.provenance["bits_per_byte"] if final else {},
        strength=float(final.provenance.get("strength", 1.0)) if final else 1.0,
        base_model=final.base_model if final else "",
        rank=final.rank if final else 0,
        alpha=final.alpha if final else 0.0,
        adapter_sha256=sha256_of(weights) if final else "",
        adapter_size=weights.stat().st_size if final else 0,
    )


def read_evaluation(file: Path) -> Evaluation:
    raw = json.loads(file.read_text(encoding="utf-8"))
    kinds = [kind for kind, value in raw["models"][0].items() if isinstance(value, dict) and "papers" in value]
    copies = raw.get("copies")
    return Evaluation(
        file=file,
        kinds=kinds,
        models=[_model(model, kinds) for model in raw["models"]],
        changes=[Change(c["from"], c["to"], {kind: _figure(c[kind]) for kind in kinds}) for c in raw["changes"]],
        context=raw["context"],
        seed=raw["seed"],
        copies=None if copies is None else [_copied(paper) for paper in copies["papers"]],
        least_tokens=copies["least_tokens"] if copies else 0,
        training_words=copies["training_words"] if copies else 0,
        samples=_samples(raw) if raw.get("writing") else [],
        styles=_styles(raw) if raw.get("writing") else [],
    )


def _input_file(folder: Path, item: Mapping[str, Any]) -> InputFile:
    words, title = None, ""
    if item.get("output") and item.get("state") in ("ok", "partial"):
        text = folder / f"{item['output']}.txt"
        if text.is_file():
            data = text.read_bytes()
            marks = data.count(b"\n#") + data.startswith(b"#")  # of headings
            words = len(data.split()) - marks
            if data.startswith(b"# "):
                title = data[2 : 4 * _TITLE].split(b"\n", 1)[0].decode(errors="replace")[:_TITLE]
    return InputFile(
        name=str(item["key"]).removeprefix("../"),
        sha256=str(item.get("sha256", "")),
        state=str(item["state"]),
        reason=str(item.get("reason", "")),
        engine=str(item.get("engine", "")),
        size=int(item.get("size", 0)),
        pages=int(item.get("pages", 0)),
        words=words,
        title=title,
    )


def _newest_state(folder: Path) -> dict[str, Any]:
    """The loop's state in the newest checkpoint, empty when there is none."""
    places = [path for path in folder.glob("checkpoint-*/checkpoint.json") if path.parent.name.removeprefix("checkpoint-").isdigit()]
    if not places:
        return {}
    newest = max(places, key=lambda path: int(path.parent.name.removeprefix("checkpoint-")))
    state: dict[str, Any] = json.loads(newest.read_text(encoding="utf-8"))["state"]
    return state


def _examples(file: Path, figures: Mapping[str, Any]) -> Examples:
    return Examples(
        sha256=figures["sha256"],
        sha256_now=sha256_of(file) if file.is_file() else "",
        size=figures["bytes"],
        examples=figures["examples"],
        tokens=figures["tokens"],
        lengths=tuple(figures.get("lengths", ())),
    )


def _model(raw: Mapping[str, Any], kinds: list[str]) -> Model:
    texts = {kind: Measured(_figure(raw[kind]), [(str(p["name"]), float(p["bits_per_byte"])) for p in raw[kind]["papers"]]) for kind in kinds}
    return Model(raw["name"], raw["kind"], raw["fingerprint"], texts)


def _figure(raw: Mapping[str, Any]) -> Figure:
    low, high, percent = (None if raw.get(key) is None else float(raw[key]) for key in ("low", "high", "percent"))
    return Figure(float(raw["value"]), low, high, percent)


def _copied(raw: Mapping[str, Any]) -> Copied:
    return Copied(raw["name"], float(raw["share"]), int(raw["longest"]), [CopiedSpan(c["text"], int(c["tokens"]), c["from"]) for c in raw["copies"]])


def _samples(raw: Mapping[str, Any]) -> list[Sample]:
    """The sections that base and tuned model wrote; none where one of them was not asked."""
    kinds = {model["name"]: model["kind"] for model in raw["models"]}
    texts = {kinds[model["name"]]: model["texts"] for model in raw["writing"]["models"]}
    if not {"base", "tuned"} <= set(texts):
        return []
    return [
        Sample(section["prompt"], _continuation(base), _continuation(tuned), section["paper"], section["text"])
        for section, base, tuned in zip(raw["writing"]["sections"], texts["base"], texts["tuned"], strict=True)
    ]


def _styles(raw: Mapping[str, Any]) -> list[Style]:
    """The authors first, then the models in their order."""
    kinds = {model["name"]: model["kind"] for model in raw["models"]}
    styles = [_style("", "authors", raw["writing"]["authors"], None)]
    for model in raw["writing"]["models"]:
        ends = model["ends"]
        styles.append(_style(model["name"], kinds[model["name"]], model, (ends["end"] + ends["heading"], sum(ends.values()))))
    return styles


def _style(name: str, kind: str, raw: Mapping[str, Any], ended: tuple[int, int] | None) -> Style:
    return Style(name, kind, float(raw["words"]), float(raw["rep_4"]), float(raw["distinct_2"]), ended)


def _continuation(raw: Mapping[str, Any]) -> Continuation:
    spans = [(int(c["start"]), int(c["end"]), int(c["tokens"]), str(c["from"])) for c in raw.get("copies", ())]
    return Continuation(str(raw["text"]), sorted(spans))


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines that are whole; a run that was killed leaves a torn last one."""
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield json.loads(line)


def _evaluate(config: ReportConfig) -> str:
    """The command that measures, with the GGUF files that are there."""
    there = [shlex.quote(str(path)) for path in config.gguf if path.is_file()]
    return " ".join(["papertune evaluate", *(["--gguf", *there] if there else [])])


def _in_words(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
