"""What a model reads before it writes, in the one format of training text, ``papertune write`` and whoever prompts the finished model by hand.

    # title

    ## an earlier section

    its first sentence

    …

    ## the section before

    …

    the end of it

    ## this section

    what of it is written

A base model has no other ear: the headings are the outline, the first sentences the summary, and ``…`` marks a gap. An outline is asked for
as the numbered list under ``## Contents``. The lines themselves are the family's (``Family.opening``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from papertune.family import MISTRAL

GAP = f"{MISTRAL.gap}\n\n"
SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9])|\n\s*\n")
_LONGEST = 8  # characters a token from which text is not tried: prose has four

Sections = Sequence[tuple[str, str]]
Count = Callable[[str], int]


def outline(title: str, abstract: str = "") -> str:
    """The prompt for the list of a paper's sections, ``1. Introduction`` and so on."""
    summary = f"{MISTRAL.opening('', ('Abstract',))}{abstract}\n\n" if abstract else ""
    return MISTRAL.opening(title) + summary + MISTRAL.opening("", ("Contents",))


def section(title: str, before: Sections, headings: tuple[str, ...], written: str, *, room: int, count: Count) -> str:
    """The prompt for going on with ``written`` under the first of ``headings``, at most ``room`` tokens by ``count``; ``before`` are (heading, text).

    Further headings are those of the subsection that begins behind ``written``. When room is short, first the summary of earlier sections
    goes, then the section before, then the beginning of this one.
    """
    head = MISTRAL.opening(title)
    end = MISTRAL.opening("", headings[:1])
    below = MISTRAL.opening("", headings).removeprefix(end)
    left = room - count(head) - count(end) - (count("\n\n" + below) if below else 0)
    end += tail(written, left, count)
    if below:
        end = end.rstrip() + "\n\n" + below
    left = room - count(head + end)
    parts: list[str] = []
    for i, (name, text) in enumerate(reversed(before)):
        opening = MISTRAL.opening("", (name,))
        space = left - count(opening) - count("\n\n")
        body = tail(text, space // 2 if len(before) > 1 else space, count) if i == 0 else _first(text) + "\n\n" + GAP.rstrip()
        part = f"{opening}{body}\n\n"
        if not body or count(part) > left:
            break
        parts.insert(0, part)
        left -= count(part)
    return head + "".join(parts) + end


def tail(text: str, room: int, count: Count) -> str:
    """``text``, or its last sentences after a gap mark, in at most ``room`` tokens; empty when not one fits."""
    beyond = max(0, len(text) - _LONGEST * max(0, room))  # characters at the beginning that cannot fit
    if not beyond and count(text) <= room:
        return text
    starts = [match.end() for match in SENTENCE.finditer(text, beyond)]
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
