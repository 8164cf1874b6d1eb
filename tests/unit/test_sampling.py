"""How tokens are drawn: by their probabilities, within the limits that are set, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papertune.sampling import Sampler, Sampling

FREE = {"top_k": 1000, "top_p": 1.0, "repeat_penalty": 1.0, "temperature": 1.0}
floats = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60)


def draws(logits: list[float], count: int, **changes: float) -> list[int]:
    sampler = Sampler(Sampling(**{**FREE, **changes}))  # type: ignore[arg-type]
    row = np.array(logits, np.float32)
    return [sampler.draw(row) for _ in range(count)]


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    logits = [1.0, 0.0, 2.0, -1.0]
    for temperature in (1.0, 0.5, 2.0):
        counts = np.bincount(draws(logits, 20_000, temperature=temperature), minlength=4)
        expected = np.exp(np.array(logits) / temperature)
        assert counts / 20_000 == pytest.approx(expected / expected.sum(), abs=0.015)


def test_a_seed_decides_the_draws() -> None:
    logits = [0.0] * 50
    assert draws(logits, 30, seed=5) == draws(logits, 30, seed=5) != draws(logits, 30, seed=6)


def test_only_the_likeliest_are_drawn() -> None:
    logits = [0.0, 3.0, 1.0, 2.9, 0.5]
    assert set(draws(logits, 300, top_k=2)) == {1, 3}
    assert set(draws([0.0, 0.0, 0.0, 0.0], 300, top_k=2)) == {0, 1}  # of equal ones the first
    nine_tenths = list(np.log([0.5, 0.3, 0.15, 0.05]))
    assert set(draws(nine_tenths, 500, top_p=0.9)) == {0, 1, 2}
    assert set(draws(nine_tenths, 100, top_p=0.01)) == {0}


def test_a_repeated_token_grows_less_likely_until_it_is_forgotten() -> None:
    greedy = {"temperature": 0.0, "repeat_penalty": 2.0}
    assert draws([4.0, 3.0, 2.5], 6, **greedy, repeat_last_n=1) == [0, 1, 0, 1, 0, 1]
    assert draws([4.0, 3.0, 2.5], 6, **greedy, repeat_last_n=2) == [0, 1, 2, 0, 1, 2]
    assert draws([-1.0, -1.5, -3.0], 4, **greedy, repeat_last_n=64) == [0, 1, 0, 0]  # once penalised, however often it was drawn
    assert draws([4.0, 3.0], 3, **greedy, repeat_last_n=0) == [0, 0, 0]


@given(floats, st.integers(1, 50), st.floats(0, 1), st.floats(0, 2), st.floats(1, 2), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_any_settings_draw_a_token_that_is_there(logits: list[float], k: int, p: float, temperature: float, penalty: float, seed: int) -> None:
    row = np.array(logits, np.float32)
    before = row.copy()
    sampler = Sampler(Sampling(temperature, k, p, penalty, 3, seed))
    for _ in range(4):
        token = sampler.draw(row)
        assert 0 <= token < len(row)
    assert (row == before).all()
