"""Spans, lines and pages: what a backend hands to the layout, and how spans become lines.

All lengths are in points of 1/72 inch, measured from the page's top left corner, y growing downwards.

A *span* is a run of text drawn at once in one font. A *line* is a run of spans on one baseline with no wide gap inside: a table row gives a
line for each cell, two columns side by side give two lines. The stream of a PDF is only a hint: spans drawn later (superscripts, accents)
are put back into the line they stand in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from papertune.extract.layout.characters import HYPHEN_MARKS
from papertune.records import Box

_NOT_LETTERS = re.compile(r"[\W\d_]+")
ASCENT, DESCENT = 0.75, 0.25  # of the font size; the fonts' own figures are too often wrong

# Widest gap, in font sizes, between two spans of one line: drawn one after the other, and drawn at different times.
GAP_DRAWN_TOGETHER = 1.0
GAP_DRAWN_APART = 0.4


@dataclass(slots=True)
class Span:
    """Text drawn in one go. ``font`` is the font's name in the file; ``space`` says that white space follows.

    ``inset`` says that it belongs to a form placed on the page, as pictures made elsewhere do.
    """

    text: str
    left: float
    right: float
    baseline: float
    size: float
    font: str = ""
    bold: bool = False
    italic: bool = False
    space: bool = False
    inset: bool = False

    @property
    def top(self) -> float:
        return self.baseline - ASCENT * self.size

    @property
    def bottom(self) -> float:
        return self.baseline + DESCENT * self.size


@dataclass
class Line:
    """Spans from left to right. ``page`` counts from 1; ``order`` is the place in which its first span was drawn on its page."""

    page: int
    spans: list[Span]
    order: int = 0
    rotated: bool = False

    def __post_init__(self) -> None:
        main = max(self.spans, key=lambda span: (len(span.text.strip()) > 0, len(span.text) * span.size))
        self.baseline = main.baseline
        self.size = main.size
        self.font = main.font
        self.left = min(span.left for span in self.spans)
        self.right = max(span.right for span in self.spans)
        self.top = main.top
        self.bottom = main.bottom

    @property
    def box(self) -> Box:
        return (self.left, self.top, self.right, self.bottom)

    @property
    def width(self) -> float:
        return self.right - self.left

    @cached_property
    def text(self) -> str:
        parts: list[str] = []
        for span, following in zip(self.spans, [*self.spans[1:], None], strict=True):
            parts.append(span.text)
            apart = following and (span.space or following.left - span.right > 0.2 * max(span.size, following.size))
            if following and apart and following.text[0] not in HYPHEN_MARKS:
                parts.append(" ")
        return " ".join("".join(parts).split())

    @cached_property
    def letters(self) -> int:
        return len(_NOT_LETTERS.sub("", self.text))

    @cached_property
    def bold(self) -> float:
        """Share of the characters that are bold."""
        return _share(self.spans, [span.bold for span in self.spans])

    @cached_property
    def italic(self) -> float:
        return _share(self.spans, [span.italic for span in self.spans])


@dataclass
class Page:
    """A page as its backend read it. ``upright`` spans are in drawing order; ``rotated`` ones run at an angle (stamps, axis labels).

    ``picture`` says that most of the page is a picture, and what text there is no more than a stamp or a page number.
    """

    number: int
    width: float
    height: float
    upright: list[Span] = field(default_factory=list)
    rotated: list[Span] = field(default_factory=list)
    picture: bool = False


def lines_of(page: Page) -> list[Line]:
    """The page's lines in drawing order, the rotated ones last."""
    groups = _put_together(_drawn_together(page.upright))
    lines = [Line(page.number, sorted(spans, key=lambda span: span.left), order) for order, spans in groups]
    lines += [Line(page.number, [span], len(page.upright) + order, rotated=True) for order, span in enumerate(page.rotated)]
    return [line for line in lines if line.text]


def _drawn_together(spans: Iterable[Span]) -> list[tuple[int, list[Span]]]:
    """Runs of spans drawn one after another from left to right on one baseline, each with its place in the drawing order."""
    runs: list[tuple[int, list[Span]]] = []
    for order, span in enumerate(spans):
        if runs and _adjoin(runs[-1][1][-1], span, GAP_DRAWN_TOGETHER):
            runs[-1][1].append(span)
        elif span.text.strip():
            runs.append((order, [span]))
    return runs


def _put_together(runs: list[tuple[int, list[Span]]]) -> list[tuple[int, list[Span]]]:
    """Joins runs that touch although other things were drawn between them."""
    runs = sorted(runs, key=lambda run: run[1][0].left)
    merged: list[tuple[int, list[Span]]] = []
    rows: dict[int, list[tuple[int, list[Span]]]] = {}
    for order, spans in runs:
        row = round(spans[0].baseline / 12)
        for candidate in (c for r in (row, row - 1, row + 1) for c in rows.get(r, ())):
            if _adjoin(candidate[1][-1], spans[0], GAP_DRAWN_APART):
                candidate[1].extend(spans)
                break
        else:
            entry = (order, list(spans))
            merged.append(entry)
            rows.setdefault(row, []).append(entry)
    return sorted(merged, key=lambda run: run[0])


def _adjoin(left: Span, right: Span, gap: float) -> bool:
    """Whether ``right`` continues the line of ``left``: next to it, and beside it at no more than a superscript's height."""
    size = max(left.size, right.size)
    if left.inset != right.inset or not -0.5 * size < right.left - left.right < gap * size:
        return False
    overlap = min(left.bottom, right.bottom) - max(left.top, right.top)
    return overlap > 0.4 * min(left.size, right.size)


def _share(spans: list[Span], marked: list[bool]) -> float:
    if True not in marked:
        return 0.0
    total = sum(len(span.text) for span in spans)
    return sum(len(span.text) for span, mark in zip(spans, marked, strict=True) if mark) / total if total else 0.0
