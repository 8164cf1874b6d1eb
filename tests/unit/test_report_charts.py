"""Charts: scales hold what they show, ticks are round, curves keep their ends, numbers in words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertune.report import words
from papertune.report.charts import Line, bar, histogram, in_steps, interval, line_chart, nice_step, scale, span, thinned
from papertune.report.markup import element
from papertune.report.sections.corpus import binned

NUMBERS = st.floats(-1e6, 1e9, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-6)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.booleans())
def test_a_scale_holds_every_value_between_its_first_and_last_tick(values: list[float], zero: bool) -> None:
    found = scale(values, zero=zero)
    assert all(-1e-9 <= found.at(value) <= 1 + 1e-9 for value in values)
    assert 2 <= len(found.ticks) <= 9
    assert (found.at(found.ticks[0]), found.at(found.ticks[-1])) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    assert not zero or any(abs(tick) < 1e-12 for tick in found.ticks)


@pytest.mark.parametrize(("rough", "step"), [(0.03, 0.05), (1, 1), (1.01, 2), (2.2, 2.5), (37, 50), (51, 100), (1e-5, 1e-5)])
def test_steps_are_round(rough: float, step: float) -> None:
    assert nice_step(rough) == pytest.approx(step)


def test_ticks_have_the_decimals_they_need_and_no_more() -> None:
    found = scale([2.51, 3.24])
    assert [in_steps(found)(tick) for tick in found.ticks] == ["2.4", "2.6", "2.8", "3.0", "3.2", "3.4"]
    assert in_steps(scale([0, 13000]))(5000) == "5,000"
    assert in_steps(scale([0.5, 0.51]))(0.5025) == "0.5025"


def test_a_span_ends_where_the_data_end() -> None:
    found = span(0, 270)
    assert (found.low, found.high, found.ticks) == (0, 270, (0, 100, 200))
    assert span(0, 0).at(0) == 0


def test_nothing_but_equal_values_or_no_numbers_still_has_a_scale() -> None:
    assert scale([7.0, 7.0]).at(7.0) == pytest.approx(0.5)
    assert scale([0.0], zero=True).at(0.0) == 0
    assert scale([float("nan")]).at(0.0) == pytest.approx(0.5)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=500), st.integers(2, 50))
def test_thinning_keeps_ends_and_stays_within_the_values(values: list[float], most: int) -> None:
    points = list(enumerate(values))
    found = thinned(points, most)
    assert len(found) == min(len(points), most)
    assert (found[0][0], found[-1][0]) == (points[0][0], points[-1][0])
    assert min(values) - 1e-9 <= min(value for _, value in found)
    assert max(value for _, value in found) <= max(values) + 1e-9


def test_a_line_chart_says_in_words_and_in_a_table_what_it_shows() -> None:
    lines = [Line([(0, 1.0), (10, 3.0)], "tuned", "train<ing"), Line([(0, 2.0)], "held-out", dots=True)]
    chart = line_chart(
        "Loss", "nats", lines, span(0, 10), scale([1, 3]), words=str, x_words=str, x_unit="step", summary="It rises & rises.", table=element("table")
    ).html
    assert 'role="img" aria-label="It rises &amp; rises."' in chart
    assert "<table></table>" in chart
    assert 'points="0,1000 1000,0"' in chart
    assert "train&lt;ing" in chart
    assert re.findall(r'<circle cx="([^"]*)" cy="([^"]*)"', chart) == [("0%", "75")]


def test_bars_are_as_high_as_their_counts() -> None:
    chart = histogram("Words", "words", [2, 0, 4], [0, 10, 20, 30], words=words.count, summary="", table=element("table")).html
    heights = [float(height) for height in re.findall(r'<rect x="[^"]*" width="[^"]*" y="[^"]*" height="([^"]*)"', chart)]
    assert heights == [75.0, 150.0]
    assert "20 to 29: 4" in chart


def test_an_interval_has_a_whisker_only_where_there_is_one() -> None:
    on = scale([0, 10])
    assert 'x1="20%" x2="60%"' in interval(on, 4, 2, 6, "tuned").html
    assert "whisker" not in interval(on, 4, None, None, "tuned").html
    assert 'width="100%"' in bar(7.0).html


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=50))
def test_every_value_falls_into_one_bin(values: list[int]) -> None:
    counts, bounds = binned(values)
    assert sum(counts) == len(values)
    assert len(counts) <= 25
    for low, high, count in zip(bounds[:-1], bounds[1:], counts, strict=True):
        assert sum(low <= value < high for value in values) == count


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (words.signed(-0.5426, 3), "−0.543"),
        (words.fixed(float("nan"), 2), "no number"),
        (words.counted(1, "file"), "1 file"),
        (words.counted(1200, "copy", "copies"), "1,200 copies"),
        (words.power(2e-4), "2 × 10⁻⁴"),
        (words.power(0.01), "0.01"),
        (words.power(0), "0"),
        (words.short(9_500), "9,500"),
        (words.short(6_610_000), "6.61\u202fM"),
        (words.size(4_370_000_000), "4.37 GB"),
        (words.size(12), "12 bytes"),
        (words.duration(20_000), "5 h 33 min"),
        (words.percent(0.938, 1), "93.8\u202f%"),
    ],
)
def test_numbers_in_words(written: str, wanted: str) -> None:
    assert written == wanted
