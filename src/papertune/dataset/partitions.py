"""Pairs of numbers on disk, given back with equal keys together, in the same memory however many there are.

Hash partitioning, by which databases group and join what memory does not hold (Kitsuregawa, Tanaka, Moto-oka 1983, "Application of hash to data
base machine and its architecture"). The partition of a key is told by the top bits of its product with an odd number. Blocks of pairs go to
disk in the order of their partitions, so that neighbouring partitions are one stretch of each block.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from papertune.dataset.scratch import Scratch

Keys = NDArray[np.uint64]
Values = NDArray[np.int64]

_BITS = 10  # of the number of partitions: parts keep their size up to 2^28 pairs, the sampled shingles of 20 GB of text
_AT_ONCE = 1 << 18  # pairs in memory: 4 MB, and a few times that while they are sorted
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, which spreads evenly spaced keys too (Knuth, volume 3, 6.4)
_PAIR = 16  # bytes


class Partitions:
    """Pairs of a key and a value in ``scratch``.

    Iterating gives them a part at a time, keys and values in two arrays. A part has all pairs of its keys, in ascending order of the keys. Which
    keys are in it, and how the values of a key are ordered, is not said. More pairs may be added afterwards, and all of them gone through again.
    """

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self._waiting: list[NDArray[np.uint64]] = []
        self._count = 0  # of those
        self._blocks: list[tuple[int, NDArray[np.int64]]] = []  # where it stands, and how many of its pairs stand before each partition

    def add(self, keys: Keys, values: Values | int) -> None:
        """Takes in pairs; one value is that of all keys. Raises DiskFull or CannotWrite."""
        pairs = np.empty((len(keys), 2), np.uint64)
        pairs[:, 0], pairs[:, 1] = keys, values
        self._waiting.append(pairs)
        self._count += len(keys)
        if self._count >= _AT_ONCE:
            self._write()

    def __iter__(self) -> Iterator[tuple[Keys, Values]]:
        if self._count or not self._blocks:
            self._write()
        before = np.sum([starts for _, starts in self._blocks], axis=0)
        edges = np.searchsorted(before, np.arange(0, before[-1], _AT_ONCE))
        for first, last in pairwise([*np.unique(edges).tolist(), 1 << _BITS]):
            pairs = np.concatenate([self._read(at + _PAIR * starts[first], starts[last] - starts[first]) for at, starts in self._blocks])
            order = np.argsort(pairs[:, 0])
            yield pairs[order, 0], pairs[order, 1].view(np.int64)

    def _write(self) -> None:
        pairs = np.concatenate([*self._waiting, np.empty((0, 2), np.uint64)])
        partition = (pairs[:, 0] * _ODD >> np.uint64(64 - _BITS)).astype(np.uint16)
        starts = np.concatenate([[0], np.cumsum(np.bincount(partition, minlength=1 << _BITS))])
        self._blocks.append((self.scratch.append(pairs[np.argsort(partition, kind="stable")].tobytes()), starts))
        self._waiting, self._count = [], 0

    def _read(self, at: int, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(self.scratch.read(at, _PAIR * count), np.uint64).reshape(-1, 2)


def first_places(keys: Keys) -> NDArray[np.int64]:
    """Where each key begins among ascending ``keys``, and the end of them."""
    return np.flatnonzero(np.diff(keys, prepend=~keys[:1], append=~keys[-1:]))
