"""What belongs to the page and not to the paper: running heads and feet, page and line numbers, stamps at an angle."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from papertune.extract.layout.lines import Line, Page

MARGIN = 0.11  # of the page's height at the top and the bottom, where running heads and feet stand
NUMBERS_IN_ROW = 8  # line numbers a page from which on they are believed
_DIGITS = re.compile(r"\d+")
_PAGE_NUMBER = re.compile(r"[^\w.]*(page|p\.|e|s)?\W*\d{1,5}(\W*(of|/)\W*\d{1,5})?[^\w.]*", re.I)
_NOTICE = re.compile(
    r"\W*(?:©|\(c\) ?(?:19|20)\d\d|copyright|(?:https?://)?(?:dx\.)?doi(?:\.org|:)|https?://|www\.|e?issn\b|downloaded from"
    r"|available (?:online )?at|volume \d|vol\. ?\d|citation:|article id\b|this is an open.access)",
    re.I,
)


def furniture(pages: Sequence[Page], lines: Sequence[Sequence[Line]]) -> set[int]:
    """The ids of the lines that are furniture; ``lines`` holds each page's."""
    found = {id(line) for page in lines for line in page if line.rotated}
    insets = [line for page in lines for line in page if line.spans[0].inset]
    if 2 * sum(line.letters for line in insets) < sum(line.letters for page in lines for line in page):
        found.update(id(line) for line in insets)  # words in pictures, and what pictures cut out of a page hide
    repeated: dict[tuple[str, int], set[int]] = defaultdict(set)
    for page, its_lines in zip(pages, lines, strict=True):
        for line in its_lines:
            if in_margin(line, page):
                repeated[_signature(line)].add(page.number)
    for page, its_lines in zip(pages, lines, strict=True):
        for line in its_lines:
            if not in_margin(line, page):
                continue
            count = _neighbours(repeated, line)
            if count >= max(2, min(3, 0.3 * len(pages))) or _PAGE_NUMBER.fullmatch(line.text) or _NOTICE.match(line.text):
                found.add(id(line))
        found |= _line_numbers(its_lines)
    return found


def in_margin(line: Line, page: Page) -> bool:
    return line.baseline < MARGIN * page.height or line.baseline > (1 - MARGIN) * page.height


def _signature(line: Line) -> tuple[str, int]:
    """The text with its numbers masked, and its height on the page in steps of 4 points."""
    return _DIGITS.sub("#", line.text.lower()), round(line.baseline / 4)


def _neighbours(repeated: dict[tuple[str, int], set[int]], line: Line) -> int:
    text, height = _signature(line)
    return len(set().union(*(repeated.get((text, height + step), set()) for step in (-1, 0, 1))))


def _line_numbers(lines: Sequence[Line]) -> set[int]:
    """Numbers beside the text that grow by one (or five) down the page; two columns may each have theirs."""
    numbers = [line for line in lines if line.text.isdecimal() and len(line.text) <= 4]
    edges = Counter(round(line.right / 4) for line in numbers)
    found: set[int] = set()
    for edge, _ in edges.most_common(4):
        column = sorted((line for line in numbers if abs(line.right / 4 - edge) <= 1), key=lambda line: line.baseline)
        steps = Counter(int(below.text) - int(above.text) for above, below in pairwise(column))
        if len(column) < NUMBERS_IN_ROW:
            break
        step, count = steps.most_common(1)[0]
        outside = all(line.left > column[0].right or line.right < column[0].left for line in lines if line.letters > 20)
        if step in (1, 5) and count >= 0.8 * (len(column) - 1) and outside:
            found.update(id(line) for line in column)
    return found
