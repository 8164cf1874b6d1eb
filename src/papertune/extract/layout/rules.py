"""What each line is, by rules: the kinds of ``papertune.records``."""

from __future__ import annotations

from collections.abc import Sequence

from papertune.extract.layout import patterns
from papertune.extract.layout.setting import Body, Row
from papertune.records import Kind

HEADING_LETTERS = 140  # no heading is longer


def kinds_by_rules(rows: Sequence[Row], body: Body) -> list[Kind]:
    """One kind a row, in one pass from the title down: what comes before decides what may follow."""
    kinds: list[Kind] = []
    part: Kind = "author"  # what plain text is here: author, paragraph, reference or back
    title_size = max((row.line.size for row in rows if row.line.page == 1 and row.line.letters > 15), default=0.0)
    seen_title = False
    previous: Kind = "author"
    for index, row in enumerate(rows):
        line, text = row.line, row.line.text
        starts = _starts_block(rows, index, body)
        heading = starts and _looks_like_heading(rows, index, body)
        kind: Kind
        if line.page == 1 and line.size > 0.95 * title_size > 1.15 * body.size and line.letters > 2 and (not seen_title or previous == "title"):
            kind, seen_title = "title", True
        elif (previous == "caption" and not starts) or _begins_caption(row, starts, body):
            kind = "caption"
        elif (heading or line.letters < 40) and patterns.REFERENCES.fullmatch(text):
            kind, part = "heading", "reference"
        elif (heading or (starts and line.letters < 60)) and patterns.BACK.fullmatch(text):
            kind, part = "back", "back"
        elif starts and (patterns.ABSTRACT.fullmatch(text) or patterns.INTRODUCTION.fullmatch(text)):
            kind, part = "heading", "paragraph"
        elif part == "reference":
            kind = "reference"
        elif heading and (part != "author" or patterns.SECTION.fullmatch(text)):
            kind = "heading"
            part = "paragraph" if part == "author" or patterns.SECTION.fullmatch(text) else part
        elif previous == "heading" and not starts and _same_type(rows[index - 1], row, body) and _styled(row, body):
            kind = "heading"
        elif _cell(rows, index, body):
            kind = "table"
        elif line.size < 0.92 * body.size and part == "paragraph":
            kind = "footnote" if line.baseline > 0.6 * row.page.height else "table"
        elif part == "author" and line.page > 1:
            kind = part = "paragraph"
        else:
            kind = part
        if kind == "heading" and part == "reference":
            kind = "reference"
        kinds.append(kind)
        previous = kind
    return kinds


def _begins_caption(row: Row, starts: bool, body: Body) -> bool:
    """"Figure 3 shows" within a paragraph begins none: a caption begins a block, and has a mark behind its number or type of its own."""
    match = patterns.CAPTION.match(row.line.text)
    return match is not None and starts and bool(match["mark"] or _styled(row, body) or row.line.size < 0.95 * body.size)


def _starts_block(rows: Sequence[Row], index: int, body: Body) -> bool:
    row = rows[index]
    if row.above is None or index == 0:
        return True
    return row.above > 1.2 * max(body.leading, row.line.size) or row.above < 0 or not _same_type(rows[index - 1], row, body)


def _same_type(one: Row, other: Row, body: Body) -> bool:
    plain = one.line.font in body.fonts, other.line.font in body.fonts
    return abs(one.line.size - other.line.size) < 0.6 and (one.line.bold > 0.5) == (other.line.bold > 0.5) and plain[0] == plain[1]


def _styled(row: Row, body: Body) -> bool:
    line = row.line
    capitals = line.letters > 3 and line.text.upper() == line.text
    return line.size > 1.08 * body.size or line.bold > 0.6 or (line.italic > 0.9) or capitals or line.font not in body.fonts


def _looks_like_heading(rows: Sequence[Row], index: int, body: Body) -> bool:
    row = rows[index]
    text = row.line.text
    if not 3 <= row.line.letters <= HEADING_LETTERS or not _styled(row, body) or (row.line.size < 0.88 * body.size and row.line.bold < 0.5):
        return False
    return not text.endswith((",", ";")) and (not text.endswith(".") or row.shortfall > 0.2 * (row.right - row.left)) and text[0] not in "•(*†"


def _cell(rows: Sequence[Row], index: int, body: Body) -> bool:
    """Whether other lines of the same column stand at this height: cells of a table."""
    row = rows[index]
    neighbours = [rows[other] for other in (index - 1, index + 1) if 0 <= other < len(rows) and rows[other].column == row.column]
    return any(abs(other.line.baseline - row.line.baseline) < 0.4 * body.size for other in neighbours)
