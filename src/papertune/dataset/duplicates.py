"""Which papers are copies of others, which belong on the same side of the split, and which paragraphs stand in several papers.

A paper is a *duplicate* when at least half of its shingles stand in a longer paper that is kept: the same paper as preprint and as published,
read badly, or a part of it. Papers are *related* when a tenth is shared: both are kept, on one side of the split. Candidates come
from the samples; whether a candidate is a duplicate is then decided on all shingles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from papertune.dataset.fingerprints import SMALLEST, Hashes

DUPLICATE, RELATED = 0.5, 0.1  # shared part of the shorter paper's shingles
_LOOK = 0.35  # sampled share from which a pair is looked at whole: a sample of 100 shingles is off by 0.15 once in a thousand times
_CROWD = 16  # a shingle of more papers than this counts only for neighbours in the order, which keeps the work linear
_AT_ONCE = 1 << 20  # shingles looked at together, which bounds the memory
_BOILERPLATE_PAPERS, _BOILERPLATE_LETTERS = 3, 400


@dataclass(frozen=True, slots=True)
class Copy:
    """Paper ``paper`` is dropped for ``kept``. ``shared`` is the part of its shingles that stand there too, ``jaccard`` that of both papers'."""

    paper: int
    kept: int
    shared: float
    jaccard: float


@dataclass(slots=True)
class Kinship:
    """``copies`` are the papers dropped. ``group`` gives each paper, dropped ones too, the number of its group: the smallest in it."""

    copies: list[Copy] = field(default_factory=list)
    group: list[int] = field(default_factory=list)


def kinship(samples: Sequence[Hashes], sizes: Sequence[int], shingles_of: Callable[[int], Hashes]) -> Kinship:
    """Duplicates and groups among papers with these samples and lengths. ``shingles_of`` gives all shingles of a paper, each once."""
    pairs = _candidates(samples)
    group = list(range(len(samples)))
    partners: dict[int, list[int]] = {}
    for a, b, share in pairs:
        _join(group, a, b)
        if share >= _LOOK:
            partners.setdefault(a, []).append(b)
            partners.setdefault(b, []).append(a)
    found = Kinship(group=[_root(group, k) for k in range(len(group))])
    stands_in: dict[int, int] = {}  # the kept paper for each one looked at
    for paper in sorted(partners, key=lambda k: (-sizes[k], k)):
        others = dict.fromkeys(stands_in[k] for k in partners[paper] if k in stands_in)
        copy = _copy_of(paper, others, shingles_of)
        if copy is not None:
            found.copies.append(copy)
        stands_in[paper] = copy.kept if copy else paper
    found.copies.sort(key=lambda copy: copy.paper)
    return found


def repeated_paragraphs(paragraphs: Sequence[Hashes], letters: Sequence[NDArray[np.uint32]]) -> list[dict[int, str]]:
    """For each paper, its paragraphs to drop, as hash to reason. ``paragraphs`` are the hashes of each paper's, ``letters`` their sizes.

    A short paragraph of three papers or more is ``boilerplate`` and dropped from all; any other stays in the first paper that has it and is
    ``repeated`` in the rest.
    """
    drops: list[dict[int, str]] = [{} for _ in paragraphs]
    owners = np.repeat(np.arange(len(paragraphs)), [len(of) for of in paragraphs])
    hashes = np.concatenate([*paragraphs, np.zeros(0, np.uint64)])
    sizes = np.concatenate([*letters, np.zeros(0, np.uint32)])
    order = np.lexsort((owners, hashes))
    owners, hashes, sizes = owners[order], hashes[order], sizes[order]
    once = np.ones(len(hashes), bool)  # a paper that has a paragraph twice counts once
    once[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    owners, hashes, sizes = owners[once], hashes[once], sizes[once]
    _, firsts, papers = np.unique(hashes, return_index=True, return_counts=True)
    for first, count in zip(firsts[papers > 1].tolist(), papers[papers > 1].tolist(), strict=True):
        boilerplate = count >= _BOILERPLATE_PAPERS and sizes[first] <= _BOILERPLATE_LETTERS
        for k in range(first if boilerplate else first + 1, first + count):
            drops[owners[k]][int(hashes[k])] = "boilerplate" if boilerplate else "repeated"
    return drops


def _candidates(samples: Sequence[Hashes]) -> list[tuple[int, int, float]]:
    """Pairs of papers that share ``RELATED`` or more of the shorter one's sample, at least two shingles, with that share."""
    lengths = np.array([len(s) for s in samples], np.int64)
    ranges = 1 + int(lengths.sum()) // _AT_ONCE
    edges = [k * SMALLEST // ranges for k in range(ranges + 1)]
    pairs, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for low, high in pairwise(edges):
        part = [s[np.searchsorted(s, np.uint64(low)) : np.searchsorted(s, np.uint64(high))] for s in samples]
        more, often = np.unique(_pairs(part), return_counts=True)
        pairs, place = np.unique(np.concatenate([pairs, more]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, often]), len(pairs)).astype(np.int64)
    a, b = pairs // max(1, len(samples)), pairs % max(1, len(samples))
    shares = counts / np.maximum(1, np.minimum(lengths[a], lengths[b]))
    near = (counts > 1) & (shares >= RELATED)
    return list(zip(a[near].tolist(), b[near].tolist(), shares[near].tolist(), strict=True))


def _pairs(samples: Sequence[Hashes]) -> NDArray[np.int64]:
    """For each shingle the pairs of papers a < b that have it, as a · papers + b."""
    owners = np.repeat(np.arange(len(samples)), [len(s) for s in samples])
    hashes = np.concatenate([*samples, np.zeros(0, np.uint64)])
    order = np.argsort(hashes, kind="stable")
    owners, hashes = owners[order], hashes[order]
    edges = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1], append=~hashes[-1:]))
    lows, sizes = edges[:-1], np.diff(edges)
    codes = [np.zeros(0, np.int64)]
    for size in range(2, _CROWD + 1):
        crowds = owners[lows[sizes == size][:, None] + np.arange(size)]
        first, second = np.triu_indices(size, 1)
        codes.append((crowds[:, first] * len(samples) + crowds[:, second]).ravel())
    for low, size in zip(lows[sizes > _CROWD].tolist(), sizes[sizes > _CROWD].tolist(), strict=True):
        crowd = owners[low : low + size]
        codes.append(crowd[:-1] * len(samples) + crowd[1:])
    return np.concatenate(codes)


def _copy_of(paper: int, others: Iterable[int], shingles_of: Callable[[int], Hashes]) -> Copy | None:
    """The kept paper of which this one is a duplicate, if any."""
    own = shingles_of(paper)
    for other in others:
        theirs = shingles_of(other)
        both = len(np.intersect1d(own, theirs, assume_unique=True))
        shared = both / min(len(own), len(theirs))
        if shared >= DUPLICATE:
            return Copy(paper, other, round(shared, 4), round(both / (len(own) + len(theirs) - both), 4))
    return None


def _join(group: list[int], a: int, b: int) -> None:
    a, b = _root(group, a), _root(group, b)
    group[max(a, b)] = min(a, b)


def _root(group: list[int], k: int) -> int:
    while group[k] != k:
        group[k] = group[group[k]]
        k = group[k]
    return k
