"""How the paper is set: its body type, and each line's place in its column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from papertune.extract.layout.lines import Line, Page
from papertune.extract.layout.run_in import without_run_in


@dataclass(frozen=True, slots=True)
class Body:
    """The type of the running text: size and leading in points, and the names of its fonts (some writers split one font into several)."""

    size: float
    fonts: frozenset[str]
    leading: float


@dataclass(slots=True)
class Row:
    """A line in its column. ``above`` and ``below`` are distances between baselines in points, None at the column's ends.

    ``left`` and ``right`` are the column's edges as its long lines show them; ``column`` numbers the columns of the document. ``run_in`` says that
    the line is only the heading with which a line of text begins.
    """

    line: Line
    page: Page
    column: int
    left: float
    right: float
    above: float | None
    below: float | None
    run_in: bool = False

    @property
    def indent(self) -> float:
        return self.line.left - self.left

    @property
    def shortfall(self) -> float:
        """White space between the line's end and the column's right edge."""
        return self.right - self.line.right


def rows_of(columns: Iterable[tuple[Page, Sequence[Line]]], body: Body) -> list[Row]:
    """The lines of all columns in reading order, each with its place."""
    rows: list[Row] = []
    for number, (page, lines) in enumerate(columns):
        left, right = _edges(lines)
        for index, line in enumerate(lines):
            above = line.baseline - lines[index - 1].baseline if index else None
            below = lines[index + 1].baseline - line.baseline if index + 1 < len(lines) else None
            parts = without_run_in(line, body.fonts)
            rows.extend(Row(part, page, number, left, right, above, below, part is not parts[-1]) for part in parts)
    return rows


def _edges(lines: Sequence[Line]) -> tuple[float, float]:
    """Left and right edge of the column: the outermost that at least a few of its long lines share."""
    widest = max(line.width for line in lines)
    long = [line for line in lines if line.width > 0.6 * widest]
    lefts, rights = sorted(line.left for line in long), sorted(line.right for line in long)
    few = len(long) // 10
    return lefts[few], rights[-1 - few]


def body_of(lines: Sequence[Sequence[Line]]) -> Body:
    """The commonest type of long lines, and the commonest distance between two of them. ``lines`` holds each page's."""
    sizes: Counter[float] = Counter()
    fonts: dict[float, Counter[str]] = {}
    for page in lines:
        for line in page:
            if line.letters > 25:
                size = round(line.size * 2) / 2
                sizes[size] += line.letters
                fonts.setdefault(size, Counter())[line.font] += line.letters
    if not sizes:
        return Body(10.0, frozenset(), 12.0)
    rounded = sizes.most_common(1)[0][0]
    body = [line for page in lines for line in page if abs(line.size - rounded) <= 0.5 and line.letters > 25]
    gaps: Counter[float] = Counter()
    for above, below in pairwise(body):
        gap = below.baseline - above.baseline
        if above.page == below.page and 0.8 * rounded < gap < 3 * rounded:
            gaps[round(gap * 2) / 2] += 1
    leading = gaps.most_common(1)[0][0] if gaps else 1.2 * rounded
    common = fonts[rounded]
    plain = {font for line in body for font in [line.font] if line.bold < 0.5 and line.italic < 0.5 and common[font] > 0.08 * sizes[rounded]}
    return Body(median(line.size for line in body), frozenset(plain or {common.most_common(1)[0][0]}), leading)
