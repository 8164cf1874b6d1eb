"""How much a text repeats itself. Words are letters and digits, case folded; punctuation and markup count for nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def rep(text: str, n: int) -> float:
    """Share of the text's runs of ``n`` words that stood in it before: rep-n (Welleck et al. 2020, arXiv 1908.04319). 0 without any."""
    runs = _runs(text, n)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def distinct(texts: Sequence[str], n: int) -> float:
    """Different runs of ``n`` words over all of them, in all texts together: distinct-n (Li et al. 2016, arXiv 1510.03055). 0 without any.

    It falls with the amount of text: comparable between models that wrote about equally much.
    """
    runs = [run for text in texts for run in _runs(text, n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    words = words_of(text)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
