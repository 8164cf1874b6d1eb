"""Which papers go to validation, and which examples a cap leaves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertune.dataset.split import sample, validation_groups
from papertune.errors import TooFewPapers

SIZES = st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 200), min_size=2, max_size=60)


@given(SIZES, st.floats(0.01, 0.5), st.integers(0, 9))
def test_both_sides_have_papers(chunks: dict[str, int], ratio: float, seed: int) -> None:
    chosen = validation_groups(chunks, ratio, seed)
    assert 0 < len(chosen) < len(chunks)
    assert chosen <= set(chunks)


@pytest.mark.parametrize("seed", range(60))
def test_the_share_is_within_a_fifth_of_a_point_where_sizes_allow(seed: int) -> None:
    draw = random.Random(seed)
    chunks = {f"paper-{k}": draw.randint(5, 60 + seed) for k in range(65)}
    chosen = validation_groups(chunks, 0.05, seed)
    assert sum(chunks[name] for name in chosen) / sum(chunks.values()) == pytest.approx(0.05, abs=0.002)


def test_a_paper_more_moves_few_others() -> None:
    chunks = {f"paper-{k}": 20 + k % 7 for k in range(400)}
    before = validation_groups(chunks, 0.1, 0)
    after = validation_groups({**chunks, "new": 23}, 0.1, 0)
    assert len(before ^ after) <= 4


@pytest.mark.parametrize("chunks", [{}, {"only": 30}])
def test_too_few(chunks: dict[str, int]) -> None:
    with pytest.raises(TooFewPapers):
        validation_groups(chunks, 0.05, 0)


@given(st.integers(0, 500), st.integers(1, 500), st.integers(0, 3))
def test_a_sample_is_spread_evenly(total: int, cap: int, seed: int) -> None:
    chosen = sample(total, cap, seed)
    assert len(chosen) == min(total, cap)
    assert chosen == sorted(set(chosen))
    if cap < total:
        assert all(abs(place - k * total / cap) <= total / cap + 1 for k, place in enumerate(chosen))
