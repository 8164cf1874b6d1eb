"""Layout: from the spans of a page to the blocks of a paper.

    spans ── lines ── furniture set aside ── columns in reading order ── labels of lines ── kinds ── blocks

Pure Python over small records, no state: every module is one of these steps, or what one of them sees (``rules``, ``styles`` and ``numbering``
are features of the labeller). Lengths are points from the page's top left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from papertune.extract.layout.blocks import blocks_of_rows
from papertune.extract.layout.characters import clean
from papertune.extract.layout.furniture import furniture
from papertune.extract.layout.hyphens import Vocabulary
from papertune.extract.layout.labeller import kinds_of
from papertune.extract.layout.lines import Page, lines_of
from papertune.extract.layout.order import gutters, in_reading_order
from papertune.extract.layout.setting import Body, Row, body_of, rows_of
from papertune.records import Block, Kind, Place


@dataclass(frozen=True, slots=True)
class Layout:
    """A paper's lines in reading order, the kind of each and how probable it is (0 to 1); ``aside`` is the furniture of all pages."""

    rows: list[Row]
    kinds: list[Kind]
    certainty: list[float]
    body: Body
    aside: list[Block]

    def blocks(self, instead: Mapping[int, Sequence[Block]] | None = None) -> list[Block]:
        """The paper's blocks in reading order, the furniture last. ``instead`` has blocks to stand in place of all that is on some pages."""
        instead = instead or {}
        vocabulary = Vocabulary(row.line.text for row in self.rows)
        blocks: list[Block] = []
        for page, stretch in groupby(zip(self.rows, self.kinds, strict=True), lambda pair: pair[0].line.page if pair[0].line.page in instead else 0):
            if page:
                blocks += instead[page]
            else:
                rows, kinds = zip(*stretch, strict=True)
                blocks += blocks_of_rows(rows, kinds, self.body, vocabulary)
        return blocks + [block for block in self.aside if block.places[0].page not in instead]


def lay_out(pages: Sequence[Page]) -> Layout:
    rows, body, aside = rows_and_body(pages)
    return Layout(rows, *kinds_of(rows, body), body, aside)


def blocks_of(pages: Sequence[Page]) -> list[Block]:
    """The paper's blocks in reading order, the furniture of all pages last."""
    return lay_out(pages).blocks()


def rows_and_body(pages: Sequence[Page]) -> tuple[list[Row], Body, list[Block]]:
    """The lines in reading order, the body type, and the furniture."""
    lines = [lines_of(page) for page in pages]
    found = furniture(pages, lines)
    kept = [[line for line in page if id(line) not in found] for page in lines]
    body = body_of(kept)
    known = gutters(kept)
    columns = ((page, column) for page, its_lines in zip(pages, kept, strict=True) for column in in_reading_order(its_lines, known))
    away = [line for page in lines for line in page if id(line) in found]
    aside = [Block("furniture", text, (Place(line.page, line.box),)) for line in away if (text := clean(line.text))]
    return rows_of(columns, body), body, aside
