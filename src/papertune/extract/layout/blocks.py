"""From labelled lines to blocks: paragraphs joined over columns, pages and floats, headings, captions, references one an entry."""

from __future__ import annotations

from collections.abc import Sequence

from papertune.extract.layout import patterns
from papertune.extract.layout.characters import clean
from papertune.extract.layout.hyphens import Vocabulary
from papertune.extract.layout.ligatures import Ligatures
from papertune.extract.layout.setting import Body, Row
from papertune.records import Block, Kind, Place

FLOATING = frozenset(("caption", "table", "footnote", "furniture", "author", "formula"))  # a paragraph may go on behind them


def blocks_of_rows(rows: Sequence[Row], kinds: Sequence[Kind], body: Body, vocabulary: Vocabulary) -> list[Block]:
    """Blocks in reading order; a paragraph that goes on behind a float stands where it began."""
    ligatures = Ligatures([row.line.text for row in rows])
    groups: list[tuple[Kind, list[Row]]] = []
    flow: tuple[Kind, list[Row]] | None = None  # the last block that is no float
    last: tuple[Kind, list[Row]] | None = None
    indented = _uses_indents(rows, kinds, body)
    for row, kind in zip(rows, kinds, strict=True):
        before = flow if kind not in FLOATING else last
        if before is not None and before[0] == kind and not _begins(before[1][-1], row, kind, body, indented):
            before[1].append(row)
            last = before
        else:
            last = (kind, [row])
            groups.append(last)
        if kind not in FLOATING:
            flow = last
    return [block for kind, group in groups if (block := _block(kind, group, vocabulary, ligatures)).text]


def _uses_indents(rows: Sequence[Row], kinds: Sequence[Kind], body: Body) -> bool:
    """Whether paragraphs begin with an indent in this paper."""
    prose = [row for row, kind in zip(rows, kinds, strict=True) if kind == "paragraph"]
    indents = sum(0.5 * body.size < row.indent < 4 * body.size and row.line.text[:1].isupper() for row in prose)
    return indents >= max(3, len(prose) // 60)


def _begins(previous: Row, row: Row, kind: Kind, body: Body, indented: bool) -> bool:
    """Whether ``row`` begins a block of its own, ``previous`` being the last line of the same kind."""
    adjacent = previous.column == row.column and previous.line.page == row.line.page
    drop = row.line.baseline - previous.line.baseline
    if adjacent and previous.run_in and drop < 1:
        return False
    if kind in ("title", "heading"):
        same = abs(row.line.size - previous.line.size) < 0.6 and abs(row.line.bold - previous.line.bold) < 0.5
        if not same or row.line.page != previous.line.page or not 0 < drop < 1.7 * max(row.line.size, body.size):
            return True
        whole = patterns.SECTION.fullmatch(previous.line.text) or patterns.NUMBERED.match(row.line.text) or previous.run_in
        return kind == "heading" and (not adjacent or bool(whole))
    if kind in ("caption", "table", "formula", "footnote", "furniture", "author"):
        return not adjacent or drop > 2 * body.leading or bool(kind == "caption" and patterns.CAPTION.match(row.line.text) and _ends(previous))
    if kind == "reference":
        return bool(patterns.REFERENCE_START.match(row.line.text)) or (row.indent < 3 < previous.indent)
    if adjacent and drop > 0:
        if drop > max(1.45 * body.leading, 1.25 * body.leading + 1):
            return True
        if indented and 0.5 * body.size < row.indent < 5 * body.size and abs(row.indent - previous.indent) > 3:
            return True
        return _ends(previous) and previous.shortfall > (1.2 if indented else 2.0) * body.size and not row.line.text[:1].islower()
    if not _ends(previous) or row.line.text[:1].islower():
        return False
    if indented:
        return row.indent > 0.5 * body.size or previous.shortfall > 2 * body.size
    return previous.shortfall > 0.5 * body.size


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


