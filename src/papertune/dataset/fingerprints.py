"""Fingerprints of papers and paragraphs, blind to case, spaces, punctuation and line breaks.

A text is reduced to its letters and digits. Its *shingles* are all runs of 16 of them (about three words), hashed to 64 bits. Two texts are
compared by the shares of shingles they have in common; a sample, the 1 in 64 with the smallest hashes, stands for them where a guess will
do (FracMinHash: Irber et al. 2022, "Lightweight compositional analysis of metagenomes"). Short shingles make the measure robust: of a copy
with 1 % of its letters misread 85 % of the shingles are left, of one with 5 % of its words replaced 82 %, of unrelated papers 2 to 4 %.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

SHINGLE = 16  # letters
SAMPLED = 64  # one shingle in so many is in a sample
SMALLEST = (1 << 64) // SAMPLED  # hashes below it are
SHORT = 400  # letters of a paragraph

_LOWER = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz")
_OTHER = bytes(c for c in range(128) if not chr(c).isalnum())
_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd multipliers of splitmix64 and xxHash
_HALF, _REST = np.uint64(32), np.uint64(29)


def letters(text: str) -> bytes:
    """Letters and digits of the text, ASCII ones in lower case; everything beyond ASCII stays as its UTF-8 bytes."""
    return text.encode("utf-8", "replace").translate(_LOWER, _OTHER)


def shingles(text: bytes) -> Hashes:
    """The hash of every run of ``SHINGLE`` bytes of ``letters``, in order; empty when there are fewer."""
    half = SHINGLE // 2
    if len(text) < SHINGLE:
        return np.zeros(0, np.uint64)
    words = np.ndarray((len(text) - half + 1,), "<u8", text, 0, (1,))  # eight letters from every place on, as one number
    hashes = words[:-half] * _A
    hashes ^= hashes >> _HALF
    hashes += words[half:]
    hashes *= _B
    hashes ^= hashes >> _REST
    return hashes


def sample(text: bytes) -> Hashes:
    """The sampled shingles, each once, ascending."""
    hashes = shingles(text)
    return np.unique(hashes[hashes < np.uint64(SMALLEST)])


def paragraph_hash(text: bytes) -> int:
    """One hash for a paragraph's ``letters``; odd for a short one."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") & ~1 | (len(text) <= SHORT)


def is_short(paragraph: int) -> bool:
    """Whether the paragraph with this hash has at most ``SHORT`` letters."""
    return paragraph & 1 == 1
