"""From labelled lines to blocks: paragraphs joined over columns, pages and floats, headings, captions, references one an entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from papertune.extract.layout import patterns
from papertune.extract.layout.characters import clean
from papertune.extract.layout.hyphens import Vocabulary
from papertune.extract.layout.ligatures import Ligatures
from papertune.extract.layout.lines import Line
from papertune.extract.layout.setting import Body, Row
from papertune.extract.layout.styles import style_of
from papertune.records import Block, Kind, Place

FLOATING = frozenset(("caption", "table", "footnote", "furniture", "author", "formula"))  # a paragraph may go on behind them
RAGGED = 0.3  # font sizes that half of the lines within paragraphs end before the edge


def blocks_of_rows(rows: Sequence[Row], kinds: Sequence[Kind], body: Body, vocabulary: Vocabulary) -> list[Block]:
    """Blocks in reading order; a paragraph that goes on behind a float stands where it began."""
    ligatures = Ligatures([row.line.text for row in rows])
    groups: list[tuple[Kind, list[Row]]] = []
    flow: tuple[Kind, list[Row]] | None = None  # the last block that is no float
    last: tuple[Kind, list[Row]] | None = None
    habits = _habits_of([row for row, kind in zip(rows, kinds, strict=True) if kind == "paragraph"], body)
    for row, kind in zip(rows, kinds, strict=True):
        before = flow if kind not in FLOATING else last
        if before is not None and before[0] == kind and not _begins(before[1][-1], row, kind, body, habits):
            before[1].append(row)
            last = before
        else:
            last = (kind, [row])
            groups.append(last)
        if kind not in FLOATING:
            flow = last
    return [block for kind, group in groups if (block := _block(kind, group, vocabulary, ligatures)).text]


@dataclass(frozen=True, slots=True)
class _Habits:
    """How paragraphs show in this paper: whether they begin with an indent, and whether lines end where their words do, the right edge ragged."""

    indented: bool
    ragged: bool


def _habits_of(prose: Sequence[Row], body: Body) -> _Habits:
    indents = sum(0.5 * body.size < row.indent < 4 * body.size and row.line.text[:1].isupper() for row in prose)
    unended = [above.shortfall for above, row in pairwise(prose) if above.column == row.column and row.line.text[:1].islower()]
    return _Habits(indents >= max(3, len(prose) // 60), len(unended) > 8 and median(unended) > RAGGED * body.size)


def _begins(previous: Row, row: Row, kind: Kind, body: Body, habits: _Habits) -> bool:
    """Whether ``row`` begins a block of its own, ``previous`` being the last line of the same kind."""
    adjacent = previous.column == row.column and previous.line.page == row.line.page
    drop = row.line.baseline - previous.line.baseline
    if adjacent and previous.run_in and drop < 1:
        return False
    if kind in ("title", "heading"):
        if not _same_heading_type(previous.line, row.line) or row.line.page != previous.line.page:
            return True
        if not 0 < drop < max(1.45 * row.line.size, 1.15 * body.leading):
            return True
        whole = patterns.SECTION.fullmatch(previous.line.text) or patterns.ENUMERATED.match(row.line.text) or previous.run_in
        return kind == "heading" and (not adjacent or bool(whole))
    if kind in ("caption", "table", "formula", "footnote", "furniture", "author"):
        return not adjacent or drop > 2 * body.leading or bool(kind == "caption" and patterns.CAPTION.match(row.line.text) and _ends(previous))
    if kind == "reference":
        return bool(patterns.REFERENCE_START.match(row.line.text)) or (row.indent < 3 < previous.indent)
    if adjacent and drop > 0 and row.above is not None and abs(row.above - drop) < 1:  # nothing stands between
        if drop > max(1.45 * body.leading, 1.25 * body.leading + 1):
            return _ends(previous) or not row.line.text[0].islower()
        if habits.indented and 0.5 * body.size < row.indent < 5 * body.size and abs(row.indent - previous.indent) > 3:
            return True
        room = 1.2 * body.size if habits.indented else 2.0 * body.size
        if habits.ragged:  # room for the next word, which yet was not set there
            room = max(room, row.line.width * (len(row.line.text.partition(" ")[0]) + 1) / len(row.line.text))
        return _ends(previous) and previous.shortfall > room and not row.line.text[:1].islower()
    if not _ends(previous) or row.line.text[:1].islower():
        return False
    if habits.indented:
        return row.indent > 0.5 * body.size or previous.shortfall > 2 * body.size
    return previous.shortfall > 0.5 * body.size


def _same_heading_type(one: Line, other: Line) -> bool:
    """Whether two lines may belong to one heading. A bold one may hold a name in italics; "METHODS" and "Animals" are two."""
    first, second = style_of(one), style_of(other)
    same = abs(one.size - other.size) < 0.6 and first.bold == second.bold and (first.bold or abs(one.italic - other.italic) < 0.95)
    return same and (first.capitals == second.capitals or min(one.letters, other.letters) < 8)


def _ends(row: Row) -> bool:
    return patterns.SENTENCE_END.search(row.line.text[-24:]) is not None


def _block(kind: Kind, rows: Sequence[Row], vocabulary: Vocabulary, ligatures: Ligatures) -> Block:
    text = ""
    for row in rows:
        text = vocabulary.join(text, row.line.text)
    return Block(kind, clean(ligatures.mend(text)), _places(rows), _level(text) if kind == "heading" else 0)


def _level(text: str) -> int:
    """Depth of a heading by its number: "2.1" is 2."""
    number = patterns.NUMBERED.match(text)
    return 1 + number["number"].strip(".").count(".") if number and number["number"][0].isdigit() else 1


def _places(rows: Sequence[Row]) -> tuple[Place, ...]:
    """One box for each column that the block stands in."""
    places: list[Place] = []
    start = 0
    for index in range(1, len(rows) + 1):
        if index == len(rows) or (rows[index].column, rows[index].line.page) != (rows[start].column, rows[start].line.page):
            lines = [row.line for row in rows[start:index]]
            box = (
                round(min(line.left for line in lines), 1),
                round(min(line.top for line in lines), 1),
                round(max(line.right for line in lines), 1),
                round(max(line.bottom for line in lines), 1),
            )
            places.append(Place(lines[0].page, box))
            start = index
    return tuple(places)


