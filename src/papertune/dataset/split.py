"""Which papers are kept for validation, and which training examples a cap leaves. Both depend on the seed and the names alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from itertools import pairwise

from papertune.errors import TooFewPapers

_NEAR = 0.002  # how far from the wanted share of chunks the validation set may be, where the sizes of the papers allow


def validation_papers(chunks: Mapping[str, int], ratio: float, seed: int) -> set[str]:
    """Names of the papers for validation: about ``ratio`` of all chunks, at least one paper on each side.

    ``chunks`` are the papers' chunk counts. Papers come in the order of a hash of seed and name, so that a paper added later changes the
    sides of few others; each is taken if it brings the share nearer without going far over. Raises TooFewPapers.
    """
    usable = {name: count for name, count in chunks.items() if count}
    if len(usable) < 2:
        found = "no paper" if not usable else f'only one paper ("{next(iter(usable))}")'
        raise TooFewPapers(
            f"There is {found} with text enough for an example; training and validation need one each.",
            "Add papers to the folder of --input-dir (run extract_text.py on more files).",
        )
    total = sum(usable.values())
    wanted = ratio * total
    order = sorted(usable, key=lambda name: _rank(name, seed))
    chosen: set[str] = set()
    size = 0
    for name in order:
        if size >= wanted - _NEAR * total or len(chosen) == len(usable) - 1:
            break
        if size + usable[name] <= wanted + _NEAR * total:
            chosen.add(name)
            size += usable[name]
    missing = sorted((name for name in order if name not in chosen), key=lambda name: abs(size + usable[name] - wanted))
    if not chosen or (len(chosen) + 1 < len(usable) and abs(size + usable[missing[0]] - wanted) < abs(size - wanted)):
        chosen.add(missing[0])
    return chosen


def sample(total: int, cap: int, seed: int) -> list[int]:
    """``cap`` of the numbers below ``total``, ascending: one at random from each of ``cap`` equal stretches.

    The examples being in the order of papers and places, every paper and every part of a paper keeps its share.
    """
    if cap >= total:
        return list(range(total))
    draw = random.Random(f"papertune sample {seed}")
    edges = [i * total // cap for i in range(cap + 1)]
    return [draw.randrange(a, b) for a, b in pairwise(edges)]


def _rank(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {name}".encode("utf-8", "backslashreplace"), digest_size=16, person=b"papertune split").digest()
