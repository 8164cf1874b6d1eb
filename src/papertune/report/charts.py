"""Charts as inline SVG whose text never shrinks: a plot is as wide as its column, on a phone as on a desk.

Horizontal places are percentages of the plot, vertical ones pixels, so nothing is scaled but the lines: those are drawn in a nested SVG of
1000 × 1000 units that is stretched to the plot, with strokes that stay as thin as they are. Colours come from the style sheet by class.
A chart's numbers stand below it in a table that can be unfolded; that is its text alternative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from papertune.report.markup import Content, Markup, element, joined
from papertune.report.words import fixed

Point = tuple[float, float]
Words = Callable[[float], str]

_UNITS = 1000
_HEIGHT = 150  # pixels of a plot
_ROW = 22  # pixels of an interval's line in a table


@dataclass(frozen=True, slots=True)
class Scale:
    """From ``low`` to ``high`` along an axis, with round numbers to label it by."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Where a value stands: 0 at ``low``, 1 at ``high``."""
        return (value - self.low) / (self.high - self.low)


def scale(values: Iterable[float], *, zero: bool = False, count: int = 4) -> Scale:
    """A scale that holds all values that are numbers, ends at ticks, and begins at 0 with ``zero``. ``count`` is about how many steps it has."""
    real = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(real), max(real)
    if zero:
        low, high = min(0.0, low), max(0.0, high)
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # all alike: room around the one value
        room = abs(low) / 10 or 1.0
        low, high = (0.0, 1.0) if zero else (low - room, high + room)
    step = nice_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, tuple(k * step for k in range(first, last + 1)))


def span(low: float, high: float, *, count: int = 4) -> Scale:
    """A scale from ``low`` to ``high`` exactly, with the ticks that fall between: for an axis that the data fill, such as steps."""
    high = high if high > low else low + 1
    step = nice_step((high - low) / count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Scale(low, high, tuple(k * step for k in range(first, last + 1)))


def nice_step(rough: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * times for times in (1, 2, 2.5, 5, 10) if rough <= power * times * (1 + 1e-9))


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most ``most`` points, each the mean of a run of neighbours; the ends of the line stay where they are on the x axis."""
    if len(points) <= most:
        return list(points)
    edges = [k * len(points) // most for k in range(most + 1)]
    means = [_mean(points[first:last]) for first, last in pairwise(edges)]
    return [(points[0][0], means[0][1]), *means[1:-1], (points[-1][0], means[-1][1])]


def in_steps(on: Scale) -> Words:
    """Writes numbers with as many decimals as the scale's ticks need: 2.50 below 2.75."""
    step = on.ticks[1] - on.ticks[0] if len(on.ticks) > 1 else on.high - on.low
    places = next((k for k in range(6) if abs(step * 10**k - round(step * 10**k)) < 1e-6 * step * 10**k), 6)
    return lambda value: fixed(value, places)


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. ``class_`` gives its colour; ``dots`` marks every point; ``label`` stands at its end."""

    points: Sequence[Point]
    class_: str
    label: str = ""
    dots: bool = False


def line_chart(
    title: str, unit: str, lines: Sequence[Line], x: Scale, y: Scale, *, words: Words, x_words: Words, x_unit: str, summary: str, table: Markup
) -> Markup:
    """Curves over a common axis. ``summary`` says in a sentence what the chart shows; ``table`` has its numbers."""
    plot: list[Content] = [
        *(_grid(y, value, words) for value in y.ticks),
        *(_tick(x, value, x_words) for value in x.ticks),
        _stretched(*(_curve(line, x, y) for line in lines if len(line.points) > 1)),
        *(_dot(x.at(at), _height(y, value), line.class_) for line in lines if line.dots or len(line.points) == 1 for at, value in line.points),
        *(_end_labels(lines, y)),
    ]
    caption: list[Content] = [element("b", title), " ", element("span", unit, class_="unit")]
    return _figure(caption, plot, summary, table, [element("span", x_unit, class_="x-unit")])


def histogram(title: str, unit: str, counts: Sequence[int], bounds: Sequence[int], *, words: Words, summary: str, table: Markup) -> Markup:
    """Counts in bins; bin k reaches from ``bounds[k]`` to ``bounds[k + 1]``."""
    y, x = scale(counts, zero=True, count=3), span(bounds[0], bounds[-1], count=5)
    bars = [_bar(x, y, count, low, high, words) for count, (low, high) in zip(counts, pairwise(bounds), strict=True) if count]
    plot = [*(_grid(y, value, words) for value in y.ticks), *(_tick(x, value, words) for value in x.ticks), *bars]
    return _figure([element("b", title)], plot, summary, table, [element("span", unit, class_="x-unit")])


def interval(on: Scale, value: float, low: float | None, high: float | None, class_: str) -> Markup:
    """A value with its interval on a line of its own, for a cell of a table that has the numbers beside it."""
    middle = _ROW / 2
    whisker = None
    if low is not None and high is not None:
        whisker = element("line", x1=_percent(on.at(low)), x2=_percent(on.at(high)), y1=middle, y2=middle, class_=f"whisker {class_}")
    return _cell(on, whisker, _dot(on.at(value), middle, class_))


def moved(on: Scale, before: float, after: float) -> Markup:
    """From one value to another, as ``interval``: an open dot, a line, a full dot."""
    middle = _ROW / 2
    line = element("line", x1=_percent(on.at(before)), x2=_percent(on.at(after)), y1=middle, y2=middle, class_="whisker tuned")
    return _cell(on, line, _dot(on.at(before), middle, "base"), _dot(on.at(after), middle, "tuned"))


def bar(share: float, class_: str = "") -> Markup:
    """A bar over ``share`` of a cell."""
    rect = element("rect", x=0, y=5, height=_ROW - 10, width=_percent(max(0.0, min(1.0, share))), class_=f"bar {class_}".strip())
    return element("svg", rect, width="100%", height=_ROW, aria_hidden="true", class_="inline")


def axis(on: Scale) -> Markup:
    """The labels of the scale under a column of intervals."""
    words = in_steps(on)
    labels = [
        element("text", words(value), x=_percent(on.at(value)), y=13, class_="tick", text_anchor=_anchor(on.at(value))) for value in on.ticks
    ]
    return element("svg", labels, width="100%", height=18, aria_hidden="true", class_="inline")


def _figure(caption: Content, plot: Content, summary: str, table: Markup, below: Content) -> Markup:
    svg = element("svg", plot, width="100%", height=_HEIGHT, role="img", aria_label=summary, class_="plot")
    details = element("details", element("summary", "Numbers"), table, class_="numbers")
    return element("figure", element("figcaption", caption), element("div", svg, class_="frame"), element("div", details, below, class_="below"))


def _cell(on: Scale, *marks: Content) -> Markup:
    grid = [element("line", x1=_percent(on.at(tick)), x2=_percent(on.at(tick)), y1=0, y2=_ROW, class_=_grid_class(tick)) for tick in on.ticks]
    return element("svg", grid, marks, width="100%", height=_ROW, aria_hidden="true", class_="inline")


def _grid(y: Scale, value: float, words: Words) -> Markup:
    height = _height(y, value)
    line = element("line", x1="0", x2="100%", y1=height, y2=height, class_=_grid_class(value))
    return joined(line, element("text", words(value), x=0, y=height, dx=-8, dy="0.32em", text_anchor="end", class_="tick"))


def _grid_class(value: float) -> str:
    return "grid zero" if value == 0 else "grid"


def _tick(x: Scale, value: float, words: Words) -> Markup:
    place = x.at(value)
    return element("text", words(value), x=_percent(place), y=_HEIGHT + 16, text_anchor=_anchor(place), class_="tick")


def _anchor(place: float) -> str:
    return "start" if place < 0.02 else "end" if place > 0.98 else "middle"


def _stretched(*curves: Markup) -> Markup:
    return element("svg", *curves, width="100%", height=_HEIGHT, viewBox=f"0 0 {_UNITS} {_UNITS}", preserveAspectRatio="none", overflow="visible")


def _curve(line: Line, x: Scale, y: Scale) -> Markup:
    places = " ".join(f"{x.at(at) * _UNITS:.4g},{(1 - y.at(value)) * _UNITS:.4g}" for at, value in line.points if math.isfinite(value))
    return element("polyline", points=places, class_=f"curve {line.class_}")


def _dot(place: float, height: float, class_: str) -> Markup:
    return element("circle", cx=_percent(place), cy=height, r=3.5, class_=f"dot {class_}")


def _end_labels(lines: Sequence[Line], y: Scale) -> list[Markup]:
    """The lines' names at their ends, kept 13 pixels apart."""
    named = sorted(((_height(y, line.points[-1][1]), line) for line in lines if line.label and line.points), key=lambda pair: pair[0])
    labels, lowest = [], -math.inf
    for height, line in named:
        lowest = max(height, lowest + 13)
        labels.append(element("text", line.label, x="100%", y=lowest, dx=7, dy="0.32em", class_=f"label {line.class_}"))
    return labels


def _bar(x: Scale, y: Scale, count: int, low: float, high: float, words: Words) -> Markup:
    height = _HEIGHT * y.at(count)
    width = x.at(high) - x.at(low)
    note = element("title", f"{words(low)} to {words(high - 1)}: {words(count)}")
    return element("rect", note, x=_percent(x.at(low) + 0.06 * width), width=_percent(0.88 * width), y=_HEIGHT - height, height=height, class_="bar")


def _height(y: Scale, value: float) -> float:
    return _HEIGHT * (1 - y.at(value))


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"


def _mean(points: Sequence[Point]) -> Point:
    return (sum(at for at, _ in points) / len(points), sum(value for _, value in points) / len(points))
