"""From the labels of lines to the kinds of the records, by what holds for a paper as a whole.

A paper has one title. Numbers of headings count on. Captions go on as long as their lines do. What stands behind a heading such as "Author
contributions" belongs to it until the next heading of its rank.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from papertune.extract.layout import patterns
from papertune.extract.layout.features import amid_sentence, continues, stopwords
from papertune.extract.layout.numbering import Number, number_of
from papertune.extract.layout.setting import Body, Row
from papertune.extract.layout.styles import Style, style_of
from papertune.records import Kind

TITLE_PITCH = 1.7  # font sizes between the baselines of a title's lines
LEAST_TITLE = 12  # letters
LEAST_ABSTRACT = 300  # characters
PROSE = 0.25  # of its words are such as "the"


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
        if kind == "heading":
            kind = _kind_of_heading(kinds, rows, index, rank)
            rank = None if kind == "heading" else rank
        elif kind == "back" and 2 * index > len(rows) and (label == "heading" or patterns.BACK.fullmatch(row.line.text)):
            rank = style_of(row.line)
        kinds.append(kind)
    return _with_abstract_and_notices(_with_one_title(_with_numbered(kinds, rows, body), rows, body), rows, body)


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
    if patterns.LEADERS.search(text):
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
        if kinds[index] == "paragraph":
            before = number[:-1] if number[-1] == 1 else (*number[:-1], number[-1] - 1)
            apart = row.above is None or not -1 < row.above < 1.15 * body.leading
            whole = row.run_in or not plain or patterns.SENTENCE_END.search(row.line.text) is None
            alone = len(number) > 2 or (row.below is not None and row.below > 1.15 * body.leading and row.shortfall > body.size)
            named = patterns.SECTION.fullmatch(row.line.text) is not None
            if (before in known or named) and apart and whole and alone:
                kinds[index] = "heading"
                goes_on = not plain
        if kinds[index] == "heading":
            known.add(number)
    return kinds


def _with_abstract_and_notices(kinds: list[Kind], rows: Sequence[Row], body: Body) -> list[Kind]:
    """On the first page, a licence or an address in small type is no text in any of its lines; and prose among the authors is the abstract,
    where no heading names one."""
    runs: list[list[int]] = []
    named = False
    for index, row in enumerate(rows):
        if row.line.page != rows[0].line.page:
            continue
        named = named or bool(kinds[index] == "heading" and patterns.ABSTRACT.match(row.line.text))
        if kinds[index] in ("author", "paragraph"):
            if runs and runs[-1][-1] == index - 1 and continues(rows[index - 1], row):
                runs[-1].append(index)
            else:
                runs.append([index])
    for run in runs:
        text = " ".join(rows[index].line.text for index in run)
        if rows[run[0]].line.size < 0.95 * body.size and patterns.LICENCE.search(text):
            found: Kind = "author"
        elif all(kinds[index] == "author" for index in run) and _is_abstract(text) and not named:
            found = "paragraph"
        else:
            continue
        for index in run:
            kinds[index] = found
    return kinds


def _is_abstract(text: str) -> bool:
    return len(text) >= LEAST_ABSTRACT and stopwords(text) >= PROSE and patterns.NOTICE.search(text) is None


def _with_one_title(kinds: list[Kind], rows: Sequence[Row], body: Body) -> list[Kind]:
    """Of all that was taken for a title, the longest, and what is set like it above and below; else what is set largest on the first page."""
    chosen = _longest(_runs([index for index, kind in enumerate(kinds) if kind == "title"], rows), rows)
    if not chosen:
        page = rows[0].line.page if rows else 0
        possible = [index for index, row in enumerate(rows) if row.line.page == page and not _no_title(row.line.text)]
        largest = max((rows[index].line.size for index in possible if rows[index].line.letters >= LEAST_TITLE), default=0.0)
        if largest > 1.15 * body.size:
            chosen = _longest(_runs([index for index in possible if rows[index].line.size > 0.95 * largest], rows), rows)
    if chosen:
        page = [index for index, row in enumerate(rows) if row.line.page == rows[chosen[0]].line.page]
        for at in [*reversed(page), *page]:
            if at not in chosen and any(_one_title(rows[at], rows[index]) for index in chosen):
                chosen.append(at)
    title = set(chosen)
    return ["title" if index in title else "author" if kind == "title" else kind for index, kind in enumerate(kinds)]


def _runs(indices: Sequence[int], rows: Sequence[Row]) -> list[list[int]]:
    """The rows in runs that may each be one title."""
    runs: list[list[int]] = []
    for index in (index for index in indices if not _no_title(rows[index].line.text)):
        if runs and _one_title(rows[index], rows[runs[-1][-1]]):
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _longest(runs: Sequence[list[int]], rows: Sequence[Row]) -> list[int]:
    """The run with the most letters; empty when it has too few."""

    def letters(run: list[int]) -> int:
        return sum(rows[index].line.letters for index in run)

    best = max(runs, key=letters, default=[])
    return best if letters(best) >= LEAST_TITLE else []


def _one_title(row: Row, other: Row) -> bool:
    """Whether two rows are set as lines of one title; others may stand between them in reading order."""
    line, above = row.line, other.line
    near = line.page == above.page and 0 < abs(line.baseline - above.baseline) < TITLE_PITCH * line.size
    beside = min(line.right, above.right) > max(line.left, above.left)
    like = abs(line.size - above.size) < 0.6 and (line.bold > 0.5) == (above.bold > 0.5)
    return near and beside and like and not _no_title(line.text)


def _no_title(text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in (patterns.ARTICLE_TYPE, patterns.SECTION, patterns.JOURNAL))
