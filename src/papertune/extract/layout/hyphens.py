"""Words broken at a line's end: whether the hyphen was the author's or the typesetter's.

The document itself is the dictionary: a word that stands unbroken elsewhere in it is one word, and a compound that stands with its hyphen
inside a line keeps it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from papertune.extract.layout.characters import HYPHEN_MARKS

_WORD = re.compile(r"[^\W\d_]+(?:[-‐‑][^\W\d_]+)*")
HYPHENS = "-‐‑\xad" + HYPHEN_MARKS
_LETTERS_AT_END = re.compile(r"[^\W\d_]+$")
_LETTERS_AT_START = re.compile(r"[^\W\d_]+")
LONGEST_WORD = 40  # characters
_SUSPENDED = re.compile(r"(?:and|or|to|und|oder|et)\b")
_PREFIXES = frozenset(["non", "self", "anti", "well", "high", "low", "long", "short", "half", "cross", "semi", "all", "ex"])


class Vocabulary:
    """The words of a document, with how often they stand whole."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.words: Counter[str] = Counter()
        for line in lines:
            words = _WORD.findall(line.lower())
            if words and line[-1] in HYPHENS:
                words.pop()
            for word in words:
                self.words[word] += 1
                if "-" in word:
                    self.words.update(word.split("-"))

    def join(self, first: str, second: str) -> str:
        """Two lines of one paragraph as one."""
        if not first or not second or first[-1] not in HYPHENS:
            return f"{first} {second}" if first and second else first or second
        stem = first.rstrip(HYPHENS)
        if not stem or stem[-1].isspace():  # a dash between words
            return f"{stem}- {second}"
        if _SUSPENDED.match(second):  # "pre- and post-operative"
            return f"{stem}- {second}"
        return stem + ("-" if self._keeps_hyphen(stem, second) else "") + second

    def _keeps_hyphen(self, stem: str, second: str) -> bool:
        before, after = _LETTERS_AT_END.search(stem, max(0, len(stem) - LONGEST_WORD)), _LETTERS_AT_START.match(second)
        if before is None or after is None or not second[0].islower():
            return True
        start, end = before.group(), after.group()
        if start.isupper() and len(start) > 1:
            return True
        if len(start) == 1 and (before.start() == 0 or not stem[before.start() - 1].isalpha()):  # "α-pinene", "n-hexane"
            return True
        whole, compound = self.words[(start + end).lower()], self.words[f"{start}-{end}".lower()]
        if whole or compound:
            return compound > whole
        tail = stem[before.start() - 1 : before.start()]
        if tail in ("-", "‐"):  # "1-methyl-ethyl": a chain of hyphens goes on
            return self.words[start.lower()] > 0 and self.words[end.lower()] > 0
        return start.lower() in _PREFIXES or (len(start) > 3 and self.words[start.lower()] > 0 and self.words[end.lower()] > 0)
