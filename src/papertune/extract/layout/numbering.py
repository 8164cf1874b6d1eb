"""Numbers that lines begin with, and whether they count on: "2", "2.1", "2.2", "3" are the headings of one paper.

A number is a tuple of the system (decimal, Roman, letter) and its parts: "2.1" is (DECIMAL, 2, 1). What may follow a number is its first child or the
next sibling of itself or of one of its parents. Each line learns how long a chain of such steps leads to it and on from it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Number = tuple[int, ...]
DECIMAL, ROMAN, LETTER = range(3)
LONGEST, OFTEN = 40, 9  # links and lines; more tell no more

_DECIMAL = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,4})(?:[.)]\s?|\s)\s*(?:\|\s*)?[^\W\d_]")
_ROMAN = re.compile(r"([IVX]{1,5})\.\s+[^\W\d_]")
_LETTER = re.compile(r"([A-H])\.\s+[^\W\d_]{2}")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10}


def number_of(text: str) -> Number | None:
    """The number that the line begins with, if words follow."""
    if match := _DECIMAL.match(text):
        return (DECIMAL, *map(int, match[1].split(".")))
    if match := _ROMAN.match(text):
        values = [_ROMAN_VALUES[letter] for letter in match[1]]
        return (ROMAN, sum(-value if value < max(values[at:]) else value for at, value in enumerate(values)))
    if match := _LETTER.match(text):
        return (LETTER, ord(match[1]) - ord("A") + 1)
    return None


NUMBERING = ("number_depth", "number_before", "number_after", "number_again")


def numbering_features(texts: Sequence[str]) -> NDArray[np.float32]:
    """One row a line, one column a name of ``NUMBERING``.

    They are the number's depth (0: none), the links of its chain up to it and from it on, and how many lines have the same number from here on.
    """
    numbers = [number_of(text) for text in texts]
    found = np.zeros((len(texts), len(NUMBERING)), dtype=np.float32)
    leads: dict[Number, int] = {}  # links of the longest chain that a number of this beginning ends
    for index, number in enumerate(numbers):
        if number is None:
            continue
        links = 1 + leads.get(number[:-1] if number[-1] == 1 else (*number[:-1], number[-1] - 1), 0) * (len(number) > 2 or number[-1] > 1)
        for depth in range(2, len(number) + 1):
            leads[number[:depth]] = max(links, leads.get(number[:depth], 0))
        found[index, :2] = len(number) - 1, min(LONGEST, links)
    follows: dict[Number, int] = {}
    again: Counter[Number] = Counter()
    for index in range(len(numbers) - 1, -1, -1):
        number = numbers[index]
        if number is None:
            continue
        successors = [(*number, 1), *((*number[: depth - 1], number[depth - 1] + 1) for depth in range(2, len(number) + 1))]
        links = 1 + max(follows.get(successor, 0) for successor in successors)
        follows[number] = max(links, follows.get(number, 0))
        again[number] += 1
        found[index, 2:] = min(LONGEST, links), min(OFTEN, again[number])
    return found
