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

from papertune.extract.layout.features import features_of
from papertune.extract.layout.kinds import kinds_of_labels
from papertune.extract.layout.setting import Body, Row
from papertune.records import Kind

LABELS = ("title", "heading", "paragraph", "caption", "table", "reference", "back", "other")
ROUNDS_AT_ONCE = 5  # as many trees as keep a paper's arrays in the cache
TRUST_IN_SEQUENCE = 0.5  # weight of the transitions' log-probabilities beside the trees'


@dataclass(frozen=True, slots=True)
class Forest:
    """Node arrays of all trees. ``roots`` has one row a round of boosting, one column a label; ``children`` two entries a node."""

    feature: NDArray[np.intp]
    threshold: NDArray[np.float32]
    children: NDArray[np.intp]
    value: NDArray[np.float32]
    roots: NDArray[np.intp]
    depth: int

    def log_probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """One row a line, one column a label."""
        count, labels = len(features), self.roots.shape[1]
        columns = np.ascontiguousarray(features.T)  # one feature of all lines side by side
        flat, starts, lines = columns.ravel(), self.feature * count, np.arange(count)
        scores = np.zeros((labels, count), dtype=np.float32)
        for first in range(0, len(self.roots), ROUNDS_AT_ONCE):
            roots = self.roots[first : first + ROUNDS_AT_ONCE].ravel()
            goes_right = columns[self.feature[roots]] > self.threshold[roots][:, None]
            nodes = self.children.take(2 * roots[:, None] + goes_right)
            for _ in range(self.depth - 1):
                asked = starts.take(nodes)
                asked += lines
                goes_right = flat.take(asked) > self.threshold.take(nodes)
                nodes *= 2
                nodes += goes_right
                nodes = self.children.take(nodes)
            scores += self.value.take(nodes).reshape(-1, labels, count).sum(axis=0)
        scores -= scores.max(axis=0)
        result: NDArray[np.float32] = (scores - np.log(np.exp(scores).sum(axis=0))).T
        return result


@cache
def _model() -> tuple[Forest, NDArray[np.float32]]:
    with files(__package__).joinpath("labeller.npz").open("rb") as file, np.load(file) as data:
        arrays = {name: data[name] for name in data.files}
    forest = Forest(
        arrays["feature"].astype(np.intp),
        arrays["threshold"].astype(np.float32),
        np.column_stack([arrays["left"], arrays["right"]]).ravel().astype(np.intp),
        arrays["value"].astype(np.float32),
        arrays["roots"].astype(np.intp),
        int(arrays["depth"]),
    )
    return forest, arrays["transitions"].astype(np.float32)


def kinds_of(rows: Sequence[Row], body: Body) -> tuple[list[Kind], list[float]]:
    """The kind of each row, and the probability that the trees alone give to its label."""
    if not rows:
        return [], []
    forest, transitions = _model()
    scores = forest.log_probabilities(features_of(rows, body))
    labels = likeliest(scores, TRUST_IN_SEQUENCE * transitions)
    kinds = kinds_of_labels([LABELS[label] for label in labels], rows, body)
    return kinds, np.exp(scores[np.arange(len(rows)), labels]).tolist()


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
