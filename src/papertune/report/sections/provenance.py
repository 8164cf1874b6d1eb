"""Where the model comes from: papers, dataset, adapter, GGUF, each link compared by hash as the files are now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from papertune.report.facts import Absent, Corpus, Dataset, Evaluation, Examples, Facts, Gguf, Training
from papertune.report.markup import Content, Markup, element
from papertune.report.parts import name, section, sha
from papertune.report.words import counted

ID, TITLE = "provenance", "Where it comes from"
Found = TypeVar("Found")
_MARKS = {True: ("✓", "good"), False: ("✗", "bad"), None: ("·", "unknown")}


@dataclass(frozen=True, slots=True)
class Link:
    """Whether what one step recorded of the step before it is what lies there now; None when it cannot be told."""

    holds: bool | None
    words: str


@dataclass(frozen=True, slots=True)
class Node:
    """One step's product: its name, the hashes it is known by, and its links to what it was made from."""

    title: str
    what: str
    hashes: tuple[tuple[str, str], ...] = ()
    links: tuple[Link, ...] = ()


def provenance(facts: Facts) -> Markup:
    nodes = list(chain(facts))
    broken = sum(link.holds is False for node in nodes for link in node.links)
    held = sum(link.holds is True for node in nodes for link in node.links)
    if broken:
        lead = f"{counted(broken, 'link')} of the chain {'does' if broken == 1 else 'do'} not hold: something was changed or made again since."
    elif held:
        lead = f"Every link that can be compared holds ({held}), so this model traces back to these papers."
    else:
        lead = "There is nothing to compare yet."
    return section(ID, TITLE, lead, element("ol", [_node(node) for node in nodes], class_="chain"))


def chain(facts: Facts) -> Iterator[Node]:
    """The steps that left something, first to last."""
    corpus, dataset = _there(facts.corpus), _there(facts.dataset)
    training, evaluation = _there(facts.training), _there(facts.evaluation)
    ggufs = [gguf for gguf in facts.ggufs if isinstance(gguf, Gguf)]
    if corpus:
        yield Node("Papers", f"{counted(len(corpus.files), 'file')}; each one's SHA-256 stands in the list of files.")
    if dataset:
        yield _dataset(dataset, corpus)
    if training and training.run:
        yield _adapter(training, dataset)
    for gguf in ggufs:
        yield _gguf(gguf, training)
    if evaluation:
        yield _evaluation(evaluation, training, ggufs)


def _there(step: Found | Absent) -> Found | None:
    return None if isinstance(step, Absent) else step


def _dataset(dataset: Dataset, corpus: Corpus | None) -> Node:
    links = []
    if corpus is not None:
        known = {file.sha256 for file in corpus.files}
        links.append(Link(all(paper.sha256 in known for paper in dataset.papers), "every paper in it is one of these files"))
        links.append(_same("it was made from this extraction", corpus.header_hash, dataset.extraction))
    links += [_same(f"{label} is as it was written", side.sha256_now, side.sha256) for label, side in _sides(dataset)]
    return Node("Dataset", str(dataset.folder), tuple((label, side.sha256) for label, side in _sides(dataset)), tuple(links))


def _sides(dataset: Dataset) -> tuple[tuple[str, Examples], ...]:
    return ("train.jsonl", dataset.train), ("val.jsonl", dataset.val)


def _adapter(training: Training, dataset: Dataset | None) -> Node:
    links = []
    if dataset is not None:
        links = [
            _same(f"it was trained on this {label}", side.sha256, str(training.run.get(key, "")))
            for (label, side), key in zip(_sides(dataset), ("train_data", "val_data"), strict=True)
        ]
    hashes = (("adapter", training.adapter_sha256), ("base model", str(training.run.get("model", ""))))
    return Node("Adapter", f"{training.folder}, on {training.base_model}", hashes, tuple(links))


def _gguf(gguf: Gguf, training: Training | None) -> Node:
    links = []
    if training is not None and training.run:
        pairs = [
            ("it holds this adapter", training.adapter_sha256, "adapter.sha256"),
            ("merged into the base model that was trained on", str(training.run.get("model", "")), "base.fingerprint"),
            ("its training data are those", str(training.run.get("train_data", "")), "dataset.train.sha256"),
        ]
        links = [_same(words, now, gguf.provenance.get(key, "")) for words, now, key in pairs]
    return Node("GGUF", str(gguf.file), (("GGUF", gguf.sha256),), tuple(links))


def _evaluation(evaluation: Evaluation, training: Training | None, ggufs: Sequence[Gguf]) -> Node:
    by_file = {gguf.file.name: gguf.sha256 for gguf in ggufs}
    links = []
    tuned = evaluation.model("tuned")
    if tuned and training and training.run:
        both = str(training.run.get("model", "")) + training.adapter_sha256
        links.append(_same("it measured this adapter", hashlib.sha256(both.encode()).hexdigest(), tuned.fingerprint))
    for model in evaluation.models:
        if model.kind == "gguf":
            file = Path(model.name).name
            links.append(_same(f"it measured this {file}", by_file.get(file, ""), model.fingerprint))
    return Node("Evaluation", str(evaluation.file), (), tuple(links))


def _same(words: str, now: str, recorded: str) -> Link:
    return Link(now == recorded if now and recorded else None, words)


def _node(node: Node) -> Markup:
    hashes: list[Content] = [element("div", element("dt", label), element("dd", sha(digest))) for label, digest in node.hashes]
    return element(
        "li",
        element("h3", node.title),
        element("p", name(node.what)),
        element("ul", [_link(link) for link in node.links], class_="links") if node.links else None,
        element("dl", hashes, class_="hashes") if hashes else None,
    )


def _link(link: Link) -> Markup:
    mark, class_ = _MARKS[link.holds]
    ending = {True: "", False: ": no longer", None: ": not recorded"}[link.holds]
    return element("li", element("span", mark, aria_hidden="true", class_="mark"), " ", f"{link.words}{ending}", class_=class_)
