"""Finds text that was taken word for word from a collection of texts: which words, from which paper, on which page.

Two texts agree where their words do: letters and digits, case folded; spaces, punctuation and markup between them count for nothing, so
that a copy is found however it was wrapped or set. A copy is a longest run of words that agrees, of ``SEED`` words or more.

Method, in numpy throughout. Every word gets a 64-bit polynomial hash, every window of ``SEED`` words one over its words. The collection's
window hashes are sorted once; a text's windows are looked up by bisection. A match of word i of the text with word j of the collection
lies on the diagonal j - i, and m matches in a row on one diagonal are an agreement of m + SEED - 1 words: nothing is compared letter by
letter. With 10^7 windows on one side and 10^5 on the other, two different windows share a hash with a probability of 10^-7.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

SEED = 8
"""Words in a window: the shortest copy that can be found. Runs of eight are rare among unrelated papers."""

_MOST = 4096  # places looked at for one window; a phrase more common than this (a licence) is found in its first so many places
_BLOCK = 1 << 20  # characters hashed at a time, which bounds the temporary arrays
_LONGEST = 64  # letters of a word that count; longer "words" are sequences and addresses
_BASE, _STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)  # odd multipliers for letters and for words


@dataclass(frozen=True, slots=True)
class Source:
    """A piece of the collection. ``paper`` is whose text it is, ``file`` where that was read, ``pages`` first and last, if known."""

    paper: str
    text: str
    file: str = ""
    pages: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """``start`` to ``end`` are the characters of the text looked at, ``words`` how many agree, ``paper`` and ``file`` where they stand too.

    ``pages`` cover the sources that have ``SEED`` words of the run or more. ``others`` counts further papers that have at least ``SEED`` of
    these words in a row.
    """

    start: int
    end: int
    words: int
    paper: str
    file: str
    pages: tuple[int, int] | None
    others: int


@dataclass(frozen=True, slots=True)
class _Run:
    """Words ``first`` to ``last`` (exclusive) of the text agree with words ``there`` to ``until`` of the collection, in these ``sources``."""

    first: int
    last: int
    there: int
    until: int
    sources: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.last - self.first


class Collection:
    """Sources, ready to be looked up. Those of one paper must follow one another in the paper's order; they may overlap.

    Memory beside the texts: 12 bytes a word, about 50 while it is made.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self.sources: list[Source] = []
        counts, windows = [0], [np.zeros(0, np.uint64)]
        for block in _blocks(sources):
            starts, _, words = split("\n".join(source.text for source in block))
            bounds = np.cumsum([0, *(len(source.text) + 1 for source in block)])
            sizes = np.diff(np.searchsorted(starts, bounds))
            names = {name: i for i, name in enumerate(dict.fromkeys(source.paper for source in block))}
            paper = np.repeat([names[source.paper] for source in block], sizes)
            windows.append(_windows(words, paper))
            counts += sizes.tolist()
            self.sources += block
        self._firsts = np.cumsum(counts)
        keys = np.concatenate(windows)
        del windows
        real = np.flatnonzero(keys).astype(np.uint32)
        keys = keys[real]
        order = np.argsort(keys, kind="stable")
        self._keys, self._places = keys[order], real[order]

    @property
    def words(self) -> int:
        return int(self._firsts[-1])

    def copies(self, text: str) -> list[Copy]:
        """All copies in ``text``, by place. Where several sources have the same words the longest run is given; a run that adds fewer than
        ``SEED`` words to longer ones is left out."""
        starts, ends, words = split(text)
        runs = self._joined(self._runs(_windows(words, np.zeros(len(words), np.int64))))
        covered = np.zeros(len(words), bool)
        kept = []
        for run in sorted(runs, key=lambda run: (-run.size, run.first, run.there)):
            if run.size - covered[run.first : run.last].sum() >= SEED:
                covered[run.first : run.last] = True
                kept.append(run)
        return [self._copy(run, runs, starts, ends) for run in sorted(kept, key=lambda run: run.first)]

    def _runs(self, windows: np.ndarray) -> list[_Run]:
        """The runs along each diagonal, by place in the text."""
        low = np.searchsorted(self._keys, windows, "left")
        found = np.where(windows == 0, 0, np.minimum(np.searchsorted(self._keys, windows, "right") - low, _MOST))
        at = np.repeat(np.arange(len(windows)), found)
        nth = np.arange(len(at)) - np.repeat(np.cumsum(found) - found, found)
        there = self._places[np.repeat(low, found) + nth].astype(np.int64)
        order = np.lexsort((at, there - at))
        at, there = at[order], there[order]
        steps = np.flatnonzero((np.diff(at) != 1) | (np.diff(there) != 1)) + 1
        begins, lasts = np.append(0, steps)[: len(at)], np.append(steps, len(at))[: len(at)] - 1
        runs = []
        for first, last, begin, end in zip(at[begins].tolist(), at[lasts].tolist(), there[begins].tolist(), there[lasts].tolist(), strict=True):
            sources = range(self._source(begin), self._source(end + SEED - 1) + 1)
            runs.append(_Run(first, last + SEED, begin, end + SEED, tuple(sources)))
        return sorted(runs, key=lambda run: (run.first, run.there))

    def _joined(self, runs: list[_Run]) -> list[_Run]:
        """These runs and those that go on in the next source of the same paper, made one.

        Sources of a paper overlap or touch; so a run that reaches the end of one goes on if, in the text, another overlaps or touches it that
        starts where the next begins. A word cut in two at the seam is forgiven.
        """
        joined: list[_Run] = []
        reaching: dict[int, _Run] = {}  # by the source whose last word they reach
        for run in runs:
            source = run.sources[0]
            before = reaching.get(source - 1)
            if before is not None and run.there <= self._firsts[source] + 1 and before.first < run.first <= before.last < run.last:
                run = _Run(before.first, run.last, before.there, run.until, before.sources + run.sources)
            joined.append(run)
            source = run.sources[-1]
            if run.until >= self._firsts[source + 1] - 1 and self._same_paper(source, source + 1):
                reaching[source] = run
        return joined

    def _same_paper(self, source: int, following: int) -> bool:
        return following < len(self.sources) and self.sources[source].paper == self.sources[following].paper

    def _source(self, word: int) -> int:
        return int(np.searchsorted(self._firsts, word, "right")) - 1

    def _copy(self, run: _Run, runs: list[_Run], starts: np.ndarray, ends: np.ndarray) -> Copy:
        source = self.sources[run.sources[0]]
        known = [p for i in self._carrying(run) if (p := self.sources[i].pages) is not None]
        others = {
            self.sources[other.sources[0]].paper for other in runs if min(run.last, other.last) - max(run.first, other.first) >= SEED
        }
        return Copy(
            start=int(starts[run.first]),
            end=int(ends[run.last - 1]),
            words=run.size,
            paper=source.paper,
            file=source.file,
            pages=(min(p[0] for p in known), max(p[1] for p in known)) if known else None,
            others=len(others - {source.paper}),
        )

    def _carrying(self, run: _Run) -> Sequence[int]:
        """The run's sources but for those with a few words of it: after a copied paragraph a text may go on with the paper's next word by chance."""
        size = {i: min(run.until, self._firsts[i + 1]) - max(run.there, self._firsts[i]) for i in run.sources}
        return [i for i in run.sources if size[i] >= SEED] or run.sources


def split(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The words of ``text``: where each begins, where it ends (exclusive, in characters), and its hash (uint64)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    folded = _fold()[np.minimum(codes, len(_fold()) - 1)]
    inside = np.concatenate([[False], folded != 0, [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return starts, ends, np.zeros(0, np.uint64)
    letters = folded[inside[1:-1]]
    sizes = ends - starts
    firsts = np.cumsum(sizes) - sizes
    nth = np.minimum(np.arange(len(letters)) - np.repeat(firsts, sizes), _LONGEST)
    return starts, ends, _mixed(np.add.reduceat(letters * _powers()[nth], firsts))


def _windows(words: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """For each word the hash of the ``SEED`` words from it on; 0 where they are not all there or not all of one paper."""
    windows = np.zeros(len(words), np.uint64)
    whole = len(words) - SEED + 1
    if whole > 0:
        total = words[:whole].copy()
        for k in range(1, SEED):
            total = total * _STEP + words[k : k + whole]
        windows[:whole] = np.where(paper[:whole] == paper[SEED - 1 :], _mixed(total), 0)
    return windows


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Every bit of the input spread over all bits (the finaliser of splitmix64), so that sums of such hashes do not collide by pattern."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(hashes ^ (hashes >> np.uint64(31)), np.uint64)


@cache
def _powers() -> np.ndarray:
    return np.cumprod(np.full(_LONGEST + 1, _BASE))


@cache
def _fold() -> np.ndarray:
    """For each code point below 0x20000 its letter, folded, as a uint64; 0 for what stands between words. Higher ones count as 0x1FFFF."""
    table = np.zeros(0x20000, np.uint64)
    for code in range(len(table)):
        character = chr(code)
        if character.isalnum():
            plain = unicodedata.normalize("NFKC", character).casefold()
            table[code] = ord(plain) if len(plain) == 1 else code
    table[-1] = len(table) - 1
    return table


def _blocks(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """The sources in lists of about ``_BLOCK`` characters that end where a paper does."""
    block: list[Source] = []
    size = 0
    for source in sources:
        if size >= _BLOCK and source.paper != block[-1].paper:
            yield block
            block, size = [], 0
        block.append(source)
        size += len(source.text)
    if block:
        yield block
