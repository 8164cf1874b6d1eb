"""From the labels of lines to the kinds of the records, by what holds for a paper as a whole.

Numbers of headings count on. Captions go on as long as their lines do. What stands behind a heading such as "Author
contributions" belongs to it until the next heading of its rank.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from papertune.extract.layout import patterns
from papertune.extract.layout.features import amid_sentence, continues
from papertune.extract.layout.front import with_front
from papertune.extract.layout.numbering import Number, number_of
from papertune.extract.layout.setting import Body, Row
from papertune.extract.layout.styles import Style, style_of
from papertune.records import Kind

LARGE = 1.15  # times the size of the running text; no text in bold is


def kinds_of_labels(labels: Sequence[str], rows: Sequence[Row], body: Body) -> list[Kind]:
    """The kind of each row; ``labels`` are of ``labeller.LABELS``."""
    kinds: list[Kind] = []
    caption = False  # inside a caption that began as one
    rank: Style | None = None  # of the heading of back matter that the rows stand behind
    for index, (label, row) in enumerate(zip(labels, rows, strict=True)):
        kind = _kind(label, row, body, index / len(rows))
        match = patterns.CAPTION.match(row.line.text)
        if match and kind in ("paragraph", "heading") and _begins_caption(kinds, rows, index, body, match):
            kind = "caption"
        caption = bool(kind == "caption" and match and match["mark"]) or (caption and continues(rows[index - 1], row))
        if caption and kind == "paragraph":
            kind = "caption"
        if kind == "paragraph" and row.line.bold > 0.5 and row.line.size > LARGE * body.size:
            kind = "heading"
        if kind == "heading":
            kind = _kind_of_heading(kinds, rows, index, rank)
            rank = None if kind == "heading" else rank
        elif kind == "back" and 2 * index > len(rows) and (label == "heading" or patterns.BACK.fullmatch(row.line.text)):
            rank = style_of(row.line)
        kinds.append(kind)
    return with_front(_with_numbered(kinds, rows, body), rows, body)


def _kind_of_heading(before: Sequence[Kind], rows: Sequence[Row], index: int, rank: Style | None) -> Kind:
    """What a line labelled a heading is after the lines ``before`` it; ``rank`` is the style of the heading of back matter that it stands behind."""
    row = rows[index]
    if index and before[-1] == "heading" and rows[index - 1].run_in:
        return "paragraph"  # the rest of the line
    if index and before[-1] == "paragraph" and amid_sentence(rows[index - 1], row) and row.line.bold < 0.5:
        return "paragraph"
    if rank is not None and (row.run_in or (style_of(row.line) != rank and not patterns.SECTION.fullmatch(row.line.text))):
        return "back"
    return "heading"


def _begins_caption(before: Sequence[Kind], rows: Sequence[Row], index: int, body: Body, match: re.Match[str]) -> bool:
    """Whether "Figure 3" is no mention of it: it begins a block, with a mark behind the number or in a type of its own, and amid no sentence."""
    row = rows[index]
    first = row.line.spans[0]
    if index and continues(rows[index - 1], row):
        return False
    if index and row.above is None and before[-1] == "paragraph" and patterns.SENTENCE_END.search(rows[index - 1].line.text) is None:
        return False
    own = first.bold or row.line.size < 0.95 * body.size or first.font not in body.fonts
    return match["mark"] in (":", ".", "|") if match["mark"] else own and first.text.strip() == match[0].strip()


def _kind(label: str, row: Row, body: Body, progress: float) -> Kind:
    """The kind a label stands for.

    Headings that name back matter or the article's type go where they belong, whatever their type. What is none of the labels: authors and
    affiliations on the first page, else notes, formulas and words in figures.
    """
    text = row.line.text
    if text.count(".") > 8 and patterns.LEADERS.search(text):
        return "table"
    if label in ("heading", "title") and (patterns.KEYWORDS.match(text) or (row.line.page <= 2 and patterns.ARTICLE_TYPE.fullmatch(text))):
        return "author"
    if label == "heading" and (patterns.REFERENCES.fullmatch(text) or (progress > 0.5 and patterns.BACK.fullmatch(text))):
        return "back"
    if label != "other":
        return label  # type: ignore[return-value]
    if row.line.page == 1:
        return "author"
    if row.line.letters < 0.5 * len(text.replace(" ", "")) and any(mark in text for mark in "=≈≤≥∑∫→"):
        return "formula"
    return "footnote" if row.line.size < 0.95 * body.size and row.line.baseline > 0.6 * row.page.height else "table"


def _with_numbered(kinds: list[Kind], rows: Sequence[Row], body: Body) -> list[Kind]:
    """What counts on from a heading's number is a heading: "3.4.1" below "3.4", even in the type of the text."""
    known: set[Number] = set()
    goes_on = False  # the heading just found, in a type of its own
    for index, row in enumerate(rows):
        plain = row.line.font in body.fonts and row.line.bold < 0.5
        if goes_on and kinds[index] == "paragraph" and not plain and continues(rows[index - 1], row) and not rows[index - 1].run_in:
            kinds[index] = "heading"
            continue
        goes_on = False
        number = number_of(row.line.text)
        if number is None:
            continue
        large = row.line.bold > 0.5 and row.line.size > LARGE * body.size
        if kinds[index] == "paragraph" or (kinds[index] == "author" and large):
            before = number[:-1] if number[-1] == 1 else (*number[:-1], number[-1] - 1)
            apart = row.above is None or not -1 < row.above < 1.15 * body.leading
            whole = row.run_in or not plain or patterns.SENTENCE_END.search(row.line.text) is None
            alone = len(number) > 2 or (row.below is not None and row.below > 1.15 * body.leading and row.shortfall > body.size)
            named = patterns.SECTION.fullmatch(row.line.text) is not None or (large and number[1:] == (1,))
            if (before in known or named) and apart and whole and (alone or large):
                kinds[index] = "heading"
                goes_on = not plain
        if kinds[index] == "heading":
            known.add(number)
    return kinds
