"""Styles: lines set in one type are alike over the whole paper.

A line that might be running text where it stands, in a type that elsewhere begins blocks, stands alone and is followed by text, is a heading too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papertune.extract.layout.lines import Line
from papertune.extract.layout.setting import Row

CAPITALS = 0.7  # of the letters: "PHOSPHATES-BASED Mg ION CONDUCTORS"


class Style(NamedTuple):
    """The type of a line: its size in half points, its main font, and how most of it is set."""

    size: float
    font: str
    bold: bool
    italic: bool
    capitals: bool


def style_of(line: Line) -> Style:
    capitals = line.letters > 3 and sum(map(str.isupper, line.text)) > CAPITALS * line.letters
    return Style(round(2 * line.size) / 2, line.font, line.bold > 0.5, line.italic > 0.5, capitals)


AVERAGED = (
    "letters", "fill", "above", "ends_stop", "starts_lower", "starts_upper", "numbered", "section", "digits", "stopwords", "centred", "mates",
    "caption",
)  # fmt: skip

# One column of ``style_features`` each.
STYLE = (
    "style_lines", "style_share", "style_pages", "style_first_page", "style_starts", "style_leads", "style_run", "style_first", "style_last",
    "style_run_in", "style_heading", "style_above", "style_below", *(f"style_{name}" for name in AVERAGED),
)  # fmt: skip


def style_features(
    rows: Sequence[Row], column: dict[str, NDArray[np.float32]], starts: NDArray[np.bool_], heading: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """One row a line, one column a name of ``STYLE``: what the lines of the line's style are like over the paper.

    ``column`` are the lines' own features by name, ``starts`` says which begin a block, ``heading`` which are one by rules.
    """
    numbers: dict[Style, int] = {}
    of = np.array([numbers.setdefault(style_of(row.line), len(numbers)) for row in rows])
    count = np.bincount(of)
    pages = np.array([row.line.page for row in rows])
    letters = column["letters"]
    total = np.bincount(of, letters)
    text = int(total.argmax())  # the style of the running text

    def mean(values: NDArray[np.float32] | NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(of, values) / count

    same_above = np.concatenate([[False], of[1:] == of[:-1]])
    same_below = np.concatenate([of[1:] == of[:-1], [False]])
    into_text = np.concatenate([(of[1:] == text) & (column["starts_upper"][1:] > 0), [False]])  # text begins below it
    first, last = np.full(len(count), len(rows)), np.zeros(len(count), dtype=int)
    np.minimum.at(first, of, np.arange(len(rows)))
    np.maximum.at(last, of, np.arange(len(rows)))
    on = np.bincount(np.unique(of * (pages.max() + 1) + pages) // (pages.max() + 1), minlength=len(count))
    runs = np.bincount(of, ~same_above)
    table = np.column_stack([
        np.log(count), total / max(1.0, total.sum()), on / pages.max(), mean(pages == 1), mean(starts),
        np.bincount(of, into_text & ~same_below) / runs, count / runs, first / len(rows), last / len(rows), mean(column["run_in"]), mean(heading),
    ])  # fmt: skip
    averaged = np.column_stack([mean(column[name]) for name in AVERAGED])
    return np.column_stack([table[of], same_above, same_below, averaged[of]]).astype(np.float32)
