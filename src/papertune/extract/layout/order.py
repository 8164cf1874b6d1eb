"""Reading order on a page: columns from left to right, each from top to bottom, parted by what spans them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from papertune.extract.layout.lines import Line

LEAST_LINES = 4  # on each side of a gutter
LEAST_GUTTER = 4.0  # points
SAME_EDGE = 3.0  # points within which left edges count as one
LARGEST_INDENT = 18.0  # points
LEAST_WIDTH = 60.0  # points, of a column


def in_reading_order(lines: Sequence[Line], known: Sequence[float] = ()) -> list[list[Line]]:
    """The page's lines as columns in reading order. What spans two columns is a column of its own.

    ``known`` are left edges at which other pages' columns begin: a paper's last column may have a line or two.
    """
    return [column for column in _columns(sorted(lines, key=lambda line: (line.baseline, line.left)), known) if column]


def gutters(pages: Iterable[Sequence[Line]]) -> list[float]:
    """Left edges at which columns begin on several pages, the commonest first."""
    found = [edge for lines in pages if (edge := _gutter(list(lines))) is not None]
    near = [sum(abs(edge - other) < SAME_EDGE for other in found) for edge in found]
    ranked = [edge for count, edge in sorted(zip(near, found, strict=True), reverse=True) if count > 1]
    return [edge for index, edge in enumerate(ranked) if all(abs(edge - other) >= SAME_EDGE for other in ranked[:index])]


def _columns(lines: list[Line], known: Sequence[float]) -> list[list[Line]]:
    edge = _gutter(lines)
    if edge is None:
        edge = next((edge for edge in known if _begins_column(lines, edge)), None)
    if edge is None:
        return [lines]
    ordered: list[list[Line]] = []
    left: list[Line] = []
    right: list[Line] = []
    spanning: list[Line] = []

    def end_band() -> None:
        ordered.extend([*_columns(list(left), known), *_columns(list(right), known)])
        left.clear()
        right.clear()

    for line in lines:
        if (line.left < edge - SAME_EDGE and line.right > edge + SAME_EDGE) or (spanning and _centred_below(line, spanning[-1], lines)):
            if not spanning:
                end_band()
            spanning.append(line)
            continue
        if spanning:
            ordered.append(list(spanning))
            spanning.clear()
        (left if line.left < edge - SAME_EDGE else right).append(line)
    if spanning:
        ordered.append(spanning)
    end_band()
    return ordered


def _centred_below(line: Line, above: Line, lines: Sequence[Line]) -> bool:
    """Whether the line goes on with what spans the columns: a short line centred below it with nothing beside, as authors are below a title."""
    centred = abs(line.left + line.right - above.left - above.right) < 2 * SAME_EDGE
    return centred and all(other is line or other.bottom <= line.top or other.top >= line.bottom for other in lines)


def _begins_column(lines: Sequence[Line], edge: float) -> bool:
    """Whether a short column begins at an edge known from other pages, with lines left of it and none across it at its height."""
    starting = [line for line in lines if -SAME_EDGE <= line.left - edge <= LARGEST_INDENT]
    if not any(line.letters > 10 for line in starting):
        return False
    top, bottom = min(line.top for line in starting), max(line.bottom for line in starting)
    beside = [line for line in lines if line.bottom > top and line.top < bottom and line.left < edge - SAME_EDGE]
    return bool(beside) and all(line.right < edge for line in beside)


def _gutter(lines: list[Line]) -> float | None:
    """The left edge of the column right of a gutter: shared by many lines, with few lines across it and many that end before it."""
    edges = sorted(line.left for line in lines if line.letters > 10)
    clusters: list[tuple[int, float]] = []
    start = 0
    for index, edge in enumerate(edges):
        while edge - edges[start] > SAME_EDGE:
            start += 1
        clusters.append((index - start + 1, edges[start]))
    candidates = dict.fromkeys(edge for count, edge in sorted(clusters, reverse=True) if count >= LEAST_LINES)
    return next((found for edge in candidates if (found := _parts(lines, edge)) is not None), None)


def _parts(lines: list[Line], edge: float) -> float | None:
    """The left edge of the column in which lines start at ``edge``, if hardly any line at their height runs across the gutter before it."""
    starting = [line for line in lines if -1 < line.left - edge <= SAME_EDGE and line.letters > 10]
    top, bottom = min(line.top for line in starting), max(line.bottom for line in starting)
    beside = [line for line in lines if line.bottom > top and line.top < bottom]
    edge = min((line.left for line in beside if edge - LARGEST_INDENT < line.left <= edge), default=edge)  # the lines at hand may all be indented
    before = [line for line in beside if line.right <= edge - LEAST_GUTTER + 1 and line.letters > 10]
    across = [line for line in beside if line.left < edge - 1 and line.right > edge - LEAST_GUTTER + 1]
    width = max(line.right for line in starting) - edge
    left_width = max((line.width for line in before), default=0.0)
    if len(before) < LEAST_LINES or 3 * len(across) > 2 * min(len(before), len(starting)) or min(width, left_width) <= LEAST_WIDTH:
        return None
    return edge
