"""How many tokens a text has, fast enough to ask for every sentence of a corpus.

Words recur, so their counts are remembered. Adding up words is exact where no token reaches over a space: true of SentencePiece vocabularies
such as Mistral's, whose pieces have the space mark only in front, and of byte-level ones, which cut before each space first. Runs of
spaces may make fewer tokens than counted, never more.

For the sentences of a paper the work is done in numpy, a stretch of them at a time. A word's hash is that of a polynomial in its characters,
taken from running sums over the stretch; counts stand in an open hash table with linear probing, so a paper costs a dozen passes over its
characters and words.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from papertune.tokenizer import Tokenizer

_BITS = 20  # of the table's size: a million places, 16 MB; it is emptied when half full
_WORDS = 1 << 16  # remembered outside of it, 10 MB
_STRETCH = 1 << 17  # characters looked at together, 40 bytes each: most papers whole
_BASE, _MIX = 0x9E3779B97F4A7C15, np.uint64(0xC2B2AE3D27D4EB4F)  # odd
_SPACE, _LINE = 32, 10

Numbers = NDArray[np.uint64]


class TokenCounter:
    def __init__(self, tokenizer: Tokenizer) -> None:
        # SentencePiece puts a space before every text itself; others get it here.
        space = "" if tokenizer.encode("a the")[-1:] == tokenizer.encode("the") else " "
        self._words = _Words(tokenizer.encode, space)
        self._powers, self._inverses = _powers(_BASE, _STRETCH), _powers(pow(_BASE, -1, 1 << 64), _STRETCH)
        self._empty()

    def __call__(self, text: str) -> int:
        """Tokens of ``text`` without begin and end token, when it opens a text or follows a space."""
        return sum(map(self._words.__getitem__, text.split(" ")))

    def sentences(self, text: str, starts: Sequence[int], ends: Sequence[int]) -> list[int]:
        """What each of these sentences of ``text``, in their order, costs alone. They begin and end at spaces, line breaks or the text's ends."""
        costs: list[int] = []
        while (first := len(costs)) < len(starts):
            last = max(first + 1, bisect_right(ends, starts[first] + _STRETCH))
            begin = starts[first]
            costs += self._costs(text[begin : ends[last - 1]], np.array(starts[first:last]) - begin, np.array(ends[first:last]) - begin)
        return costs

    def _costs(self, text: str, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[int]:
        """The same for a stretch."""
        characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        gaps = np.flatnonzero((characters == _SPACE) | (characters == _LINE))
        edges = np.concatenate([[-1], gaps, [len(characters)]])
        counts = self._counts(text, characters, edges[:-1] + 1, edges[1:])
        spent = np.concatenate([[0], np.cumsum(counts)])
        first, last = np.searchsorted(gaps, starts), np.searchsorted(gaps, ends)
        costs: list[int] = (spent[last + 1] - spent[first]).tolist()
        return costs

    def _counts(self, text: str, characters: NDArray[np.uint32], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens of each word."""
        if len(starts) > 1 << (_BITS - 1):  # a sentence without end, such as a list of words
            return np.array([self._words[text[start:end]] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)], np.int64)
        if 2 * self._filled > 1 << _BITS:
            self._empty()
        while len(self._powers) <= len(characters):
            self._powers, self._inverses = (_extended(powers) for powers in (self._powers, self._inverses))
        sums = np.zeros(len(characters) + 1, np.uint64)
        np.cumsum((characters + np.uint64(1)) * self._powers[: len(characters)], out=sums[1:])
        keys = (sums[ends] - sums[starts]) * self._inverses[starts]
        keys ^= keys >> np.uint64(29)
        keys *= _MIX
        keys |= np.uint64(1)  # 0 marks an empty place
        places = self._find(keys)
        new = np.flatnonzero(self._keys[places] != keys)
        if len(new):
            new = new[np.unique(keys[new], return_index=True)[1]]
            words = [text[start:end] for start, end in zip(starts[new].tolist(), ends[new].tolist(), strict=True)]
            self._filled += len(new)
            self._add(keys[new], np.array([self._words[word] for word in words], np.int64))
            places = self._find(keys)
        return self._values[places]

    def _find(self, keys: Numbers) -> NDArray[np.int64]:
        """Where each key stands in the table, or the empty place where it would."""
        places = (keys >> np.uint64(64 - _BITS)).astype(np.int64)
        looking = np.arange(len(keys))
        while len(looking):
            there = self._keys[places[looking]]
            looking = looking[(there != keys[looking]) & (there != 0)]
            places[looking] = (places[looking] + 1) & ((1 << _BITS) - 1)
        return places

    def _add(self, keys: Numbers, counts: NDArray[np.int64]) -> None:
        """Puts different keys into the table. Of several that want one place the last gets it, and the others look on."""
        while len(keys):
            places = self._find(keys)
            self._keys[places], self._values[places] = keys, counts
            left = self._keys[places] != keys
            keys, counts = keys[left], counts[left]

    def _empty(self) -> None:
        self._filled = 0
        self._keys, self._values = np.zeros(1 << _BITS, np.uint64), np.zeros(1 << _BITS, np.int64)


class _Words(dict[str, int]):
    """The tokens of each word that was asked for, of ``_WORDS`` words at most."""

    def __init__(self, encode: Callable[[str], list[int]], space: str) -> None:
        super().__init__()
        self._encode, self._space = encode, space

    def __missing__(self, word: str) -> int:
        if len(self) >= _WORDS:
            self.clear()
        count = self[word] = max(1, len(self._encode(self._space + word)))
        return count


def _powers(base: int, count: int) -> Numbers:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _extended(powers: Numbers) -> Numbers:
    """Twice as many powers of the same base."""
    return np.concatenate([powers, powers * (powers[-1:] * powers[1:2])])  # arrays wrap around in silence, scalars warn
