"""What the line labeller sees of a line: its type, its place, its wording, and those of its neighbours.

Every feature is relative (to the body type, the column, the page, the paper's length), so that a journal never seen looks like those seen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from papertune.extract.layout import patterns
from papertune.extract.layout.numbering import numbering_features
from papertune.extract.layout.rules import kinds_by_rules
from papertune.extract.layout.setting import Body, Row
from papertune.extract.layout.styles import style_features
from papertune.records import Kind

TAIL = 24  # characters at a line's end among which a full stop and marks of citations stand
FAR_APART = 9.0  # leadings
FAR = 60.0  # rows: as good as never
SHIFTS = (-3, -2, -1, 1, 2, 3)  # neighbours whose own features are seen too

_STOPWORDS = frozenset((
    "the", "of", "and", "in", "to", "was", "were", "with", "for", "that", "is", "by", "as", "from", "on", "are", "this", "which", "a", "an", "at",
    "be", "it", "or", "de", "la", "le", "les", "des", "el", "los", "en", "y", "der", "die", "das", "und",
))  # fmt: skip
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_CITED = re.compile(r"\d\s?[:,(]\s?\d|\d[–-]\d|[Vv]ol\b|(?<![a-z])pp?\.|[Dd][Oo][Ii]")
_INITIALS = re.compile(r"\b[A-Z]{1,3}\b[.,]|\b[A-Z]\.")
_UPPER, _DIGIT, _MARK = re.compile("[A-Z]"), re.compile(r"\d"), re.compile(r"[^\w\s]")
_WORD = re.compile(r"[^\W\d_]{2,}")

RULED: tuple[Kind, ...] = ("heading", "paragraph", "caption", "table", "reference", "back")

# One row of the matrix ``_own`` makes; the names are the documentation.
OWN = (
    "size", "bold", "italic", "other_font", "first_bold", "first_italic", "capitals", "digits", "letters", "words",
    "fill", "indent", "shortfall", "centred", "above", "below", "height_on_page", "left_on_page", "column_width", "mates",
    "ends_sentence", "ends_stop", "starts_upper", "starts_lower", "starts_digit", "numbered", "caption", "caption_mark",
    "references", "back", "section", "keywords", "affiliation", "entry", "stopwords", "years", "cited", "initials",
    "commas", "same_size_above", "marks", "run_in", "follows_run_in", "amid_sentence",
)  # fmt: skip
WIDE = (
    "size", "bold", "other_font", "letters", "fill", "indent", "above", "mates", "ends_stop", "starts_lower", "numbered", "caption",
    "stopwords", "cited", "digits", "run_in",
)  # fmt: skip
PLACE = (
    "page", "pages_left", "progress", "since_references", "since_back", "since_caption", "since_section", "since_abstract",
    "largest_on_page_one", "prose_around", "digits_around", "cited_around", "small_around", "mates_around", "since_table_caption",
    "caption_in_column", "caption_unbroken", "starts_block", *(f"rules_say_{kind}" for kind in RULED),
)  # fmt: skip


def features_of(rows: Sequence[Row], body: Body) -> NDArray[np.float32]:
    """A matrix with one row a line."""
    own = np.array(_own(rows, body), dtype=np.float32)
    wide = own[:, [OWN.index(name) for name in WIDE]]
    shifted = [np.roll(wide, -shift, axis=0) for shift in SHIFTS]
    rules = kinds_by_rules(rows, body)
    place = np.array(_place(rows, own, rules), dtype=np.float32)
    starts = place[:, PLACE.index("starts_block")] > 0
    columns = {name: own[:, index] for index, name in enumerate(OWN)}
    style = style_features(rows, columns, starts, np.array([rule == "heading" for rule in rules]))
    return np.hstack([own, place, style, numbering_features([row.line.text for row in rows]), *shifted]).astype(np.float32)


def _own(rows: Sequence[Row], body: Body) -> list[list[float]]:
    mates = Counter((row.line.page, round(row.line.baseline / 3)) for row in rows)
    found: list[list[float]] = []
    for index, row in enumerate(rows):
        line, text = row.line, row.line.text
        length, width = len(text), max(1.0, row.right - row.left)
        caption = patterns.CAPTION.match(text)
        middle = (line.left + line.right) / 2 - (row.left + row.right) / 2
        at = round(line.baseline / 3)
        found.append([
            line.size / body.size, line.bold, line.italic, line.font not in body.fonts, line.spans[0].bold, line.spans[0].italic,
            len(_UPPER.findall(text)) / max(1, line.letters), len(_DIGIT.findall(text)) / length, line.letters, len(_WORD.findall(text)),
            line.width / width, min(9.0, row.indent / body.size), min(30.0, row.shortfall / body.size), min(9.0, abs(middle) / body.size),
            _leadings(row.above, body), _leadings(row.below, body), line.baseline / row.page.height, line.left / row.page.width,
            width / row.page.width, mates[line.page, at] + 0.5 * (mates[line.page, at - 1] + mates[line.page, at + 1]),
            patterns.SENTENCE_END.search(text[-TAIL:]) is not None, text.endswith("."), text[0].isupper(), text[0].islower(),
            text[0].isdigit(), patterns.NUMBERED.match(text) is not None, caption is not None, bool(caption and caption["mark"]),
            patterns.REFERENCES.fullmatch(text) is not None, patterns.BACK.fullmatch(text) is not None,
            patterns.SECTION.fullmatch(text) is not None, patterns.KEYWORDS.match(text) is not None,
            line.page <= 2 and patterns.AFFILIATION.search(text) is not None, patterns.REFERENCE_START.match(text) is not None,
            stopwords(text),
            len(_YEAR.findall(text)), len(_CITED.findall(text)), len(_INITIALS.findall(text)),
            text.count(","), bool(index) and abs(rows[index - 1].line.size - line.size) < 0.3, len(_MARK.findall(text)) / length,
            row.run_in, bool(index) and rows[index - 1].run_in, bool(index) and amid_sentence(rows[index - 1], row),
        ])  # fmt: skip
    return found


def stopwords(text: str) -> float:
    """Share of its words that are in any text: "the", "of"."""
    words = text.lower().split()
    return sum(word in _STOPWORDS for word in words) / max(1, len(words))


def amid_sentence(above: Row, row: Row) -> bool:
    """Whether the line above is full and ends no sentence."""
    close = above.column == row.column and row.above is not None and row.above < 1.4 * row.line.size and not above.run_in
    return close and above.shortfall < 2 * above.line.size and patterns.SENTENCE_END.search(above.line.text[-TAIL:]) is None


def _leadings(gap: float | None, body: Body) -> float:
    return FAR_APART if gap is None else min(FAR_APART, gap / body.leading)


def _place(rows: Sequence[Row], own: NDArray[np.float32], rules: Sequence[Kind]) -> list[list[float]]:
    count, last = len(rows), max(row.line.page for row in rows)
    column = {name: own[:, index] for index, name in enumerate(OWN)}
    around = [_around(column[name]) for name in ("stopwords", "digits", "cited", "size", "mates")]
    largest = max((row.line.size for row in rows if row.line.page == 1 and row.line.letters > 10), default=1.0)
    seen = dict.fromkeys(("references", "back", "caption", "section", "abstract", "table"), -1e9)
    found: list[list[float]] = []
    caption_column = -1
    unbroken = 0  # lines of one type and one leading since a caption began
    for index, row in enumerate(rows):
        line = row.line
        for name in ("references", "back", "section"):
            if column[name][index]:
                seen[name] = index
        if patterns.ABSTRACT.match(line.text):
            seen["abstract"] = index
        if column["caption"][index]:
            seen["caption"] = index
            caption_column = row.column
            if patterns.TABLE_CAPTION.match(line.text):
                seen["table"] = index
        starts = index == 0 or not continues(rows[index - 1], row)
        if column["caption"][index] and (column["caption_mark"][index] or column["first_bold"][index] or starts):
            unbroken = 1
        elif unbroken:
            unbroken = 0 if starts else unbroken + 1
        found.append([
            line.page, last - line.page, index / count, min(FAR * 3, index - seen["references"]), min(FAR, index - seen["back"]),
            min(FAR, index - seen["caption"]), min(FAR, index - seen["section"]), min(FAR * 3, index - seen["abstract"]),
            line.page == 1 and line.size > 0.95 * largest, *(float(values[index]) for values in around), min(FAR, index - seen["table"]),
            caption_column == row.column, unbroken, starts,
            *(rules[index] == kind for kind in RULED),
        ])  # fmt: skip
    return found


def continues(above: Row, row: Row) -> bool:
    """Whether the line is set as the one above it, and close to it."""
    close = row.above is not None and -1 < row.above < 1.4 * row.line.size
    return close and row.column == above.column and abs(row.line.size - above.line.size) < 0.3


def _around(values: NDArray[np.float32], reach: int = 4) -> NDArray[np.float32]:
    """Mean over the neighbours within ``reach`` rows."""
    kernel = np.ones(2 * reach + 1, dtype=np.float32)
    return (np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")).astype(np.float32)
