"""What each line is, learned: boosted trees over the lines' features, then the likeliest sequence (Viterbi).

``labeller.npz`` beside this module is written by ``benchmarks/train_labeller.py``. Trees are full arrays of nodes, all trees one after another:
an inner node has the feature it asks, the threshold (go left when the value is not above it) and its two children; a leaf is its own child
and carries what it adds to the score of the tree's label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from papertune.extract.layout import patterns
from papertune.extract.layout.features import continues, features_of
from papertune.extract.layout.setting import Body, Row
from papertune.records import Kind

LABELS = ("title", "heading", "paragraph", "caption", "table", "reference", "back", "other")
ROUNDS_AT_ONCE = 10  # as many trees as keep a long paper's arrays in the cache
TRUST_IN_SEQUENCE = 0.5  # weight of the transitions' log-probabilities beside the trees'


@dataclass(frozen=True, slots=True)
class Forest:
    """Node arrays of all trees. ``roots`` has one row a round of boosting, one column a label."""

    feature: NDArray[np.int16]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]
    roots: NDArray[np.int32]
    depth: int

    def log_probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """One row a line, one column a label."""
        flat = features.ravel()
        row_starts = (np.arange(len(features)) * features.shape[1])[:, None]
        children = np.column_stack([self.left, self.right]).ravel()
        scores = np.zeros((len(features), self.roots.shape[1]), dtype=np.float32)
        for start in range(0, len(self.roots), ROUNDS_AT_ONCE):
            roots = self.roots[start : start + ROUNDS_AT_ONCE].ravel()
            nodes = np.broadcast_to(roots, (len(features), len(roots)))
            for _ in range(self.depth):
                goes_right = flat.take(row_starts + self.feature.take(nodes)) > self.threshold.take(nodes)
                nodes = children.take(2 * nodes + goes_right)
            scores += self.value.take(nodes).reshape(len(features), -1, scores.shape[1]).sum(axis=1)
        scores -= scores.max(axis=1, keepdims=True)
        result: NDArray[np.float32] = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return result


@cache
def _model() -> tuple[Forest, NDArray[np.float32]]:
    with files(__package__).joinpath("labeller.npz").open("rb") as file, np.load(file) as data:
        arrays = {name: data[name] for name in data.files}
    transitions = arrays.pop("transitions").astype(np.float32)
    arrays["threshold"] = arrays["threshold"].astype(np.float32)
    arrays["value"] = arrays["value"].astype(np.float32)
    return Forest(depth=int(arrays.pop("depth")), **arrays), transitions


def kinds_of(rows: Sequence[Row], body: Body) -> tuple[list[Kind], list[float]]:
    """The kind of each row, and the probability that the trees alone give to its label."""
    if not rows:
        return [], []
    forest, transitions = _model()
    scores = forest.log_probabilities(features_of(rows, body))
    labels = likeliest(scores, TRUST_IN_SEQUENCE * transitions)
    return kinds_of_labels(labels, rows, body), np.exp(scores[np.arange(len(rows)), labels]).tolist()


def kinds_of_labels(labels: Sequence[int], rows: Sequence[Row], body: Body) -> list[Kind]:
    """The kinds that labels stand for; a caption goes on as long as its lines do."""
    kinds: list[Kind] = []
    caption = False  # inside a caption that began as one
    for index, (label, row) in enumerate(zip(labels, rows, strict=True)):
        kind = _kind(LABELS[label], row, body, index / len(rows))
        match = patterns.CAPTION.match(row.line.text)
        caption = bool(kind == "caption" and match and match["mark"]) or (caption and continues(rows[index - 1], row))
        kinds.append("caption" if caption and kind == "paragraph" else kind)
    return kinds


def likeliest(scores: NDArray[np.float32], transitions: NDArray[np.float32]) -> list[int]:
    """The sequence of labels with the greatest sum of scores (one row a line) and transitions (from row to column)."""
    best = scores[0]
    back = np.zeros(scores.shape, dtype=np.int8)
    for index in range(1, len(scores)):
        reached = best[:, None] + transitions
        back[index] = reached.argmax(axis=0)
        best = reached.max(axis=0) + scores[index]
    label = int(best.argmax())
    sequence = [label]
    for index in range(len(scores) - 1, 0, -1):
        label = int(back[index, label])
        sequence.append(label)
    return sequence[::-1]


def _kind(label: str, row: Row, body: Body, progress: float) -> Kind:
    """The kind a label stands for.

    Headings that name back matter or the article's type go where they belong, whatever their type. What is none of the labels: authors and
    affiliations on the first page, else notes, formulas and words in figures.
    """
    text = row.line.text
    if label == "heading" and row.line.page == 1 and (patterns.ARTICLE_TYPE.fullmatch(text) or patterns.KEYWORDS.match(text)):
        return "author"
    if label == "heading" and (patterns.REFERENCES.fullmatch(text) or (progress > 0.5 and patterns.BACK.fullmatch(text))):
        return "back"
    if label != "other":
        return label  # type: ignore[return-value]
    if row.line.page == 1:
        return "author"
    if row.line.letters < 0.5 * len(text.replace(" ", "")) and any(mark in text for mark in "=≈≤≥∑∫→"):
        return "formula"
    return "footnote" if row.line.size < 0.95 * body.size and row.line.baseline > 0.6 * row.page.height else "table"
