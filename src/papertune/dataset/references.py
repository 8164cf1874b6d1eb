"""Finds reference lists that extraction left in the running text: by their heading, and by what entries look like.

Under a heading such as "References" everything is taken up to the next heading, and beyond it as long as blocks look like entries. Without a
heading, a run of blocks that look like entries is taken when there are at least three of them, or much of the text is in them.
"""

from __future__ import annotations

import re

from papertune.dataset.read import Block

_HEADING = re.compile(
    r"\W*(?:\d{1,2}\.?\s+|[IVX]+\.\s+)?(?:references?(?: and (?:notes|further reading|recommended reading))?|bibliograph(?:y|ic references)|"
    r"literature(?: cited| references)?|works cited|cited literature|reference list|list of references|further reading)\W*",
    re.IGNORECASE,
)
_YEAR = re.compile(r"\b(?:1[89]\d\d|20[0-4]\d)[a-z]?\b")
_MARK = re.compile(r"\W{0,2}\d{1,3}[.\])]?\s")  # "12. ", "[12] "
_NAME = re.compile(r"\b[A-Z][\w'’\-]+,? (?:[A-Z]\.?[ \-]?){1,3}(?=[,;:.&\s]|$)|\b(?:[A-Z]\.[ \-]?){1,3} ?[A-Z][\w'’\-]+(?=[,;:.&\s]|$)")
_PLACE = re.compile(
    r"\b\d{1,4} ?\(\d{1,3}(?:[-–/]\d+)?\) ?[:,]|\b\d{1,4} ?[:;,] ?[eE]?\d+ ?[-–] ?\d+|\bvol\. ?\d|\bpp?\. ?\d|\bdoi\b|https?://"
    r"|\[(?:PubMed|CrossRef|Google Scholar)\]",
    re.IGNORECASE,
)
_PROSE = re.compile(r"\b(?:was|were|is|are|be|been|has|have|had|that|which|this|these|we|our|it|not|can|may|also|their|than)\b")
_DENSE = 0.13  # share of capitals, digits and punctuation: 0.05 to 0.1 in prose, 0.2 in entries
_PLAIN = b"abcdefghijklmnopqrstuvwxyz \n" + bytes(range(128, 256))
_LONG = 60  # words: more than one entry
_FEWEST = 3  # entries in a row without a heading
_HOLE = 2  # blocks between two entries that may look otherwise: half an entry, a page number
_SEVERAL = 5  # volumes and pages in one block with a whole list


def reference_blocks(blocks: list[Block]) -> set[int]:
    """The numbers of the blocks that belong to reference lists, their headings too."""
    taken: set[int] = set()
    k = 0
    while k < len(blocks):
        if _is_heading(blocks[k]):
            end = _under_heading(blocks, k + 1)
            if end > k + 1 or blocks[k].level:
                taken.update(range(k, end))
            k = max(end, k + 1)
        else:
            k += 1
    return taken | _without_heading(blocks, taken)


def _is_heading(block: Block) -> bool:
    return len(block.text) < 50 and _HEADING.fullmatch(block.text) is not None


def _under_heading(blocks: list[Block], start: int) -> int:
    """Behind the last block of the list that begins at ``start``.

    Prose under the heading without another heading before it (the next section's was lost) ends the list where two such blocks follow.
    """
    k = start
    while k < len(blocks):
        if blocks[k].level:
            ahead = blocks[k + 1 : k + 3]
            if not ahead or not all(not b.level and looks_like_reference(b.text) for b in ahead):
                return k
        elif looks_like_prose(blocks[k].text) and all(looks_like_prose(b.text) for b in blocks[k + 1 : k + 2]):
            return k
        k += 1
    return k


def _without_heading(blocks: list[Block], taken: set[int]) -> set[int]:
    entries = [k for k, b in enumerate(blocks) if k not in taken and not b.level and looks_like_reference(b.text)]
    found: set[int] = set()
    run: list[int] = []
    for k in [*entries, len(blocks) + _HOLE + 1]:
        if run and (k - run[-1] > _HOLE + 1 or not all(map(_may_be_hole, blocks[run[-1] + 1 : k]))):
            if len(run) >= _FEWEST or any(len(_PLACE.findall(blocks[j].text)) >= _SEVERAL for j in run):
                found.update(range(run[0], run[-1] + 1))
            run = []
        run.append(k)
    return found


def _may_be_hole(block: Block) -> bool:
    return not block.level and not looks_like_prose(block.text)


def looks_like_reference(text: str) -> bool:
    """An entry, or several run together: names with initials, a year, a volume or page, hardly a verb."""
    raw = text.encode("utf-8", "replace")
    if len(raw.translate(None, _PLAIN)) < _DENSE * len(raw):
        return False  # the quick test comes first: nearly every paragraph is prose
    words = text.count(" ") + 1
    long = words > _LONG
    if len(_PROSE.findall(text)) * (25 if long else 12) > words:
        return False
    places = len(_PLACE.findall(text))
    if long and places * 60 < words:
        return False
    names, years = len(_NAME.findall(text)), len(_YEAR.findall(text))
    if long:
        return (names + places + years) * 8 >= words
    return bool(years or places) and min(names, 3) + 1.5 * min(places, 2) + min(years, 1) + (_MARK.match(text) is not None) >= 3


def looks_like_prose(text: str) -> bool:
    """Running text: long enough to tell, with the verbs of sentences."""
    words = text.count(" ") + 1
    return words >= 25 and len(_PROSE.findall(text)) * 22 >= words and not looks_like_reference(text)
