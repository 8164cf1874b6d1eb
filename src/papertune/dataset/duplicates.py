"""Which papers are copies of others, which belong on the same side of the split, and which paragraphs stand in several papers.

A paper is a *duplicate* when at least half of its shingles stand in a longer paper that is kept: the same paper as preprint and as published,
read badly, or a part of it. Papers are *related* when a tenth is shared: both are kept, on one side of the split. Candidates come
from the samples; whether a candidate is a duplicate is then decided on all shingles.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from papertune.dataset.fingerprints import Hashes, is_short
from papertune.dataset.partitions import Partitions, first_places

DUPLICATE, RELATED = 0.5, 0.1  # shared part of the shorter paper's shingles
_LOOK = 0.35  # sampled share from which a pair is looked at whole: a sample of 100 shingles is off by 0.15 once in a thousand times
_CROWD = 16  # a shingle of more papers than this counts only for neighbours in the order, which keeps the work linear
_BOILERPLATE_PAPERS = 3


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
    group: dict[int, int] = field(default_factory=dict)


def kinship(samples: Partitions, sizes: Mapping[int, int], shingles_of: Callable[[int], Hashes]) -> Kinship:
    """Duplicates and groups among the papers in ``sizes``, which gives the length of each by its number.

    ``samples`` are sampled shingles, each with the number of a paper that has it; papers without a size do not count. ``shingles_of`` gives
    all shingles of a paper, each once.
    """
    group = {paper: paper for paper in sizes}
    partners: dict[int, list[int]] = {}
    for a, b, share in _candidates(samples, sizes):
        _join(group, a, b)
        if share >= _LOOK:
            partners.setdefault(a, []).append(b)
            partners.setdefault(b, []).append(a)
    found = Kinship(group={paper: _root(group, paper) for paper in group})
    stands_in: dict[int, int] = {}  # the kept paper for each one looked at
    for paper in sorted(partners, key=lambda k: (-sizes[k], k)):
        others = dict.fromkeys(stands_in[k] for k in partners[paper] if k in stands_in)
        copy = _copy_of(paper, others, shingles_of)
        if copy is not None:
            found.copies.append(copy)
        stands_in[paper] = copy.kept if copy else paper
    found.copies.sort(key=lambda copy: copy.paper)
    return found


def repeated_paragraphs(paragraphs: Partitions, papers: Collection[int]) -> dict[int, dict[int, str]]:
    """For each of ``papers`` that repeats others the paragraphs to drop, as hash to reason.

    ``paragraphs`` are the hashes of paragraphs, each with the number of a paper that has it. A short paragraph of three papers or more is
    ``boilerplate`` and dropped from all; any other stays in the first paper that has it and is ``repeated`` in the rest.
    """
    wanted = np.fromiter(papers, np.int64)
    drops: dict[int, dict[int, str]] = {}
    for hashes, owners in paragraphs:
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        once = np.isin(owners, wanted)  # a paper that has a paragraph twice counts once
        once[1:] &= (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        hashes, owners = hashes[once], owners[once]
        edges = first_places(hashes)
        several = np.flatnonzero(np.diff(edges) > 1)
        for first, last in zip(edges[several].tolist(), edges[several + 1].tolist(), strict=True):
            paragraph = int(hashes[first])
            boilerplate = last - first >= _BOILERPLATE_PAPERS and is_short(paragraph)
            for owner in owners[first if boilerplate else first + 1 : last].tolist():
                drops.setdefault(owner, {})[paragraph] = "boilerplate" if boilerplate else "repeated"
    return drops


def _candidates(samples: Partitions, papers: Collection[int]) -> list[tuple[int, int, float]]:
    """Pairs of papers a < b that share ``RELATED`` or more of the shorter one's sample, at least two shingles, with that share; ascending."""
    wanted = np.fromiter(papers, np.int64)
    base = int(wanted.max(initial=0)) + 1
    lengths = np.zeros(base, np.int64)
    shared = Partitions(samples.scratch)  # a · base + b, with how many shingles of those looked at together are in both
    for hashes, owners in samples:
        known = np.isin(owners, wanted)
        hashes, owners = hashes[known], owners[known]
        lengths += np.bincount(owners, minlength=base)
        shared.add(*np.unique(_pairs(hashes, owners, base), return_counts=True))
    found: list[tuple[int, int, float]] = []
    for pairs, counts in shared:
        firsts = first_places(pairs)[:-1]
        a, b = np.divmod(pairs[firsts].astype(np.int64), base)
        counts = np.add.reduceat(counts, firsts)
        shares = counts / np.minimum(lengths[a], lengths[b])
        near = (counts > 1) & (shares >= RELATED)
        found += zip(a[near].tolist(), b[near].tolist(), shares[near].tolist(), strict=True)
    return sorted(found)


def _pairs(hashes: Hashes, owners: NDArray[np.int64], base: int) -> Hashes:
    """For each of the ascending shingles the pairs of papers a < b that have it, as a · base + b."""
    edges = first_places(hashes)
    lows, sizes = edges[:-1], np.diff(edges)
    codes = [np.zeros(0, np.int64)]
    for size in range(2, _CROWD + 1):
        crowds = np.sort(owners[lows[sizes == size][:, None] + np.arange(size)])
        first, second = np.triu_indices(size, 1)
        codes.append((crowds[:, first] * base + crowds[:, second]).ravel())
    for low, size in zip(lows[sizes > _CROWD].tolist(), sizes[sizes > _CROWD].tolist(), strict=True):
        crowd = np.sort(owners[low : low + size])
        codes.append(crowd[:-1] * base + crowd[1:])
    return np.concatenate(codes).astype(np.uint64)


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


def _join(group: dict[int, int], a: int, b: int) -> None:
    a, b = _root(group, a), _root(group, b)
    group[max(a, b)] = min(a, b)


def _root(group: dict[int, int], k: int) -> int:
    while group[k] != k:
        group[k] = group[group[k]]
        k = group[k]
    return k
