"""Bits per byte: how many bits a model needs for each byte of a text it has not seen. Lower is better; tokenizers do not matter.

    bits per byte = Σ -log2 p(token | all before it in the window) / bytes of the text those tokens spell

A text longer than the window is read in windows that overlap by half: each token is measured once, in the first window it falls in, after at
least half a window of its own text (at the text's beginning: after all there is). Begin and end tokens spell no bytes and are not measured.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from papertune.evaluate.passages import Paper, Passage

if TYPE_CHECKING:
    import numpy as np

    from papertune.sampling import Sampling

RESAMPLES = 10_000


class Model(Protocol):
    """``window`` is how many tokens it sees at a time; ``bos`` its begin token."""

    name: str
    window: int
    bos: int

    def encode(self, text: str) -> list[int]:
        """Tokens without begin or end token."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of these tokens."""

    def losses(self, ids: Sequence[int], start: int) -> np.ndarray:
        """-ln p of each of ``ids[start:]``, in nats; ``start`` ≥ 1."""

    def write(self, prompt: str, sampling: Sampling, most: int) -> Generator[str, None, bool]:
        """Text after ``prompt`` in pieces, at most ``most`` tokens; returns whether the model itself ended it."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One paper under one model."""

    bits: float
    bytes: int
    tokens: int

    @property
    def bits_per_byte(self) -> float:
        return self.bits / self.bytes


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval; without one where there is a single paper."""

    value: float
    low: float | None = None
    high: float | None = None


def measure(model: Model, paper: Paper) -> Measured | None:
    """None for a paper in which nothing can be measured."""
    nats: list[float] = []
    size = tokens = 0
    for passage in paper.passages:
        ids, start, spelt = tokenize(model, passage)
        for first, last, begin in windows(len(ids), start, model.window):
            nats += model.losses([model.bos, *ids[first:last]], 1 + begin - first).tolist()
        size += spelt
        tokens += len(ids) - start
    return Measured(math.fsum(nats) / math.log(2), size, tokens) if size else None


def tokenize(model: Model, passage: Passage) -> tuple[list[int], int, int]:
    """The passage's tokens with prompt, the first that is measured, and how many bytes those measured spell.

    Prompt and text are encoded as one, as in training; a token over the seam belongs to what is measured.
    """
    ids = model.encode(passage.prompt + passage.text)
    given = model.encode(passage.prompt + passage.text[: passage.known])
    start = next((i for i, (a, b) in enumerate(zip(ids, given, strict=False)) if a != b), min(len(ids), len(given)))
    return ids, start, len((passage.prompt + passage.text).encode()) - len(model.decode(ids[:start]).encode())


def windows(total: int, start: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(first, last, begin): windows over tokens ``first`` to ``last`` of ``total``, measured from ``begin`` on, so that each token from
    ``start`` on is measured once. One place of ``size`` is for the begin token."""
    room = size - 1
    first, begin = 0, start
    while begin < total:
        if first + room <= begin:  # what was given before fills the window
            first = begin - room // 2
        last = min(total, first + room)
        yield first, last, begin
        first, begin = last - room // 2, last


def bits_per_byte(papers: Sequence[Measured], seed: int) -> Interval:
    """Over all papers together; the interval by drawing papers with replacement ``RESAMPLES`` times."""
    bits, sizes = _columns(papers)
    value = math.fsum(p.bits for p in papers) / sum(p.bytes for p in papers)
    if len(papers) < 2:
        return Interval(value)
    drawn = _draws(len(papers), seed)
    return _with_bounds(value, bits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))


def change(before: Sequence[Measured], after: Sequence[Measured], seed: int) -> Interval:
    """Bits per byte after less those before, on the same papers in the same order: negative is better. The same papers are drawn for both."""
    value = bits_per_byte(after, seed).value - bits_per_byte(before, seed).value
    if len(before) < 2:
        return Interval(value)
    drawn = _draws(len(before), seed)
    (bits, sizes), (bits_after, sizes_after) = _columns(before), _columns(after)
    return _with_bounds(value, bits_after[drawn].sum(axis=1) / sizes_after[drawn].sum(axis=1) - bits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))


def _columns(papers: Sequence[Measured]) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    return np.array([p.bits for p in papers]), np.array([p.bytes for p in papers], dtype=float)


def _draws(papers: int, seed: int) -> np.ndarray:
    import numpy as np

    return np.random.Generator(np.random.PCG64(seed)).integers(0, papers, (RESAMPLES, papers))


def _with_bounds(value: float, drawn: np.ndarray) -> Interval:
    import numpy as np

    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high))
