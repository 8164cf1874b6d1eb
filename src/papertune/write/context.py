"""What the model reads before it goes on: the article so far, as much of it as fits, written as its training text was.

    # title

    ## an earlier section

    its first sentence

    …

    ## the section before

    …

    the end of it

    ## this section

    what of it is written

A base model has no other ear: the headings are the outline, the first sentences the summary, and ``…`` marks a gap, as in the training text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from papertune.family import MISTRAL

GAP = f"{MISTRAL.gap}\n\n"
SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9])|\n\s*\n")

Sections = Sequence[tuple[str, str]]


def prompt(title: str, before: Sections, heading: str, written: str, *, room: int, count: Callable[[str], int]) -> str:
    """The prompt for going on with ``written`` under ``heading``, at most ``room`` tokens by ``count``; ``before`` are (heading, text).

    When room is short, first the summary of earlier sections goes, then the section before, then the beginning of this one.
    """
    head = f"# {title}\n\n"
    left = room - count(head)
    end = f"## {heading}\n\n"
    left -= count(end)
    end += _tail(written, left, count)
    left = room - count(head + end)
    parts: list[str] = []
    for i, (name, text) in enumerate(reversed(before)):
        opening = f"## {name}\n\n"
        space = left - count(opening) - count("\n\n")
        body = _tail(text, space // 2 if len(before) > 1 else space, count) if i == 0 else _first(text) + "\n\n" + GAP.rstrip()
        part = f"{opening}{body}\n\n"
        if not body or count(part) > left:
            break
        parts.insert(0, part)
        left -= count(part)
    return head + "".join(parts) + end


def _tail(text: str, room: int, count: Callable[[str], int]) -> str:
    """``text``, or its last sentences after a gap mark; empty when not one fits."""
    if count(text) <= room:
        return text
    starts = [0, *(match.end() for match in SENTENCE.finditer(text))]
    low, high = 0, len(starts)  # the first start from which it fits, by bisection
    while low < high:
        middle = (low + high) // 2
        if count(GAP + text[starts[middle] :]) <= room:
            high = middle
        else:
            low = middle + 1
    return GAP + text[starts[low] :] if low < len(starts) else ""


def _first(text: str) -> str:
    """The first sentence."""
    match = SENTENCE.search(text.strip())
    return text.strip()[: match.start()].strip() if match else text.strip()
