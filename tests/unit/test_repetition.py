"""Repetition counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertune.repetition import distinct, rep


def test_repeated_runs_are_counted_as_the_papers_define_them() -> None:
    assert rep("one two three four", 4) == 0
    assert rep("a b a b a b", 2) == pytest.approx(3 / 5)  # ab ba ab ba ab: two different ones of five
    assert rep("The cat. The CAT, the cat!", 2) == pytest.approx(3 / 5)
    assert rep("short", 4) == 0
    assert distinct(["a b c", "a b d"], 2) == pytest.approx(3 / 4)  # no run reaches over the end of a text
    assert distinct(["a a", "a"], 1) == pytest.approx(1 / 3)
    assert distinct([], 1) == 0


@given(st.text("ab ", max_size=60), st.integers(1, 5))
def test_one_text_repeats_what_is_not_distinct(text: str, n: int) -> None:
    assert 0 <= rep(text, n) <= 1
    if rep(text, n):
        assert rep(text, n) + distinct([text], n) == pytest.approx(1)
