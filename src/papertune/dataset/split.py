"""Which papers are kept for validation, and which training examples a cap leaves. Both depend on the seed and the names alone."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_left
from collections.abc import Mapping
from itertools import pairwise

from papertune.errors import TooFewPapers

_NEAR = 0.002  # how far from the wanted share of chunks the validation set may be, where the sizes of the papers allow


def validation_groups(chunks: Mapping[str, int], ratio: float, seed: int, others: str = "") -> set[str]:
    """Names of the groups of papers for validation: about ``ratio`` of all chunks, at least one group on each side.

    ``chunks`` are the groups' chunk counts. Groups come in the order of ``rank``, so that a paper added later changes the sides of few
    others; each is taken if it brings the share nearer without going far over. Only where that ends more than 0.2 points off, two change
    sides. ``others`` says for the error what became of the rest of the files. Raises TooFewPapers.
    """
    if len(chunks) < 2:
        found = f'only one paper ("{next(iter(chunks))}")' if chunks else "no paper"
        raise TooFewPapers(
            f"There is {found} with text enough for an example; training and validation need one each.{others}",
            "Add papers to the folder of --input-dir (run extract_text.py on more files).",
        )
    total = sum(chunks.values())
    wanted, near = ratio * total, _NEAR * total
    order = sorted(chunks, key=lambda name: rank(name, seed))
    chosen: set[str] = set()
    size = 0
    for name in order:
        if len(chosen) < len(order) - 1 and size < wanted - near and size + chunks[name] <= wanted + near:
            chosen.add(name)
            size += chunks[name]
    left = [name for name in order if name not in chosen]
    best = min(left, key=lambda name: abs(size + chunks[name] - wanted))
    if not chosen or (len(left) > 1 and abs(size + chunks[best] - wanted) < abs(size - wanted)):
        chosen.add(best)
        size += chunks[best]
    if abs(size - wanted) > near:
        _exchange(chosen, chunks, order, wanted - size)
    return chosen


def _exchange(chosen: set[str], chunks: Mapping[str, int], order: list[str], missing: float) -> None:
    """Puts one group in the place of another, so that the size of ``chosen`` changes by about ``missing``, if that makes it better."""
    left = sorted((name for name in order if name not in chosen), key=lambda name: chunks[name])
    sizes = [chunks[name] for name in left]
    best, out, into = abs(missing), "", ""
    for name in filter(chosen.__contains__, order):
        place = bisect_left(sizes, chunks[name] + missing)
        for k in range(max(0, place - 1), min(len(left), place + 1)):
            if (off := abs(chunks[name] + missing - sizes[k])) < best:
                best, out, into = off, name, left[k]
    if out:
        chosen.remove(out)
        chosen.add(into)


def sample(total: int, cap: int, seed: int) -> list[int]:
    """``cap`` of the numbers below ``total``, ascending: one at random from each of ``cap`` equal stretches.

    The examples being in the order of papers and places, every paper and every part of a paper keeps its share.
    """
    if cap >= total:
        return list(range(total))
    draw = random.Random(f"papertune sample {seed}")
    edges = [i * total // cap for i in range(cap + 1)]
    return [draw.randrange(a, b) for a, b in pairwise(edges)]


def rank(name: str, seed: int) -> bytes:
    """Where a paper stands in the order in which validation is filled."""
    return hashlib.blake2b(f"{seed} {name}".encode("utf-8", "backslashreplace"), digest_size=16, person=b"papertune split").digest()
