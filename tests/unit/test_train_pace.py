"""The time left: by tokens, without what happens only at the start of a process."""

from __future__ import annotations

import random

import pytest

from papertune.train.pace import WARM_UP, Pace


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def take(pace: Pace, clock: Clock, tokens: int, seconds: float, between: float = 0.0) -> None:
    clock.now += seconds
    pace.step(tokens, seconds)
    clock.now += between


def test_nothing_is_told_before_a_step_counts() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(WARM_UP):
        take(pace, clock, 1000, 60.0)
        assert pace.left(5000, 5, 0) is None
    take(pace, clock, 1000, 2.0)
    assert pace.left(5000, 5, 0) == pytest.approx(10.0)


def test_steps_of_uneven_length_count_by_their_tokens() -> None:
    """After 20 steps within 5 %, as is promised, where steps differ by a factor of four and the first took minutes to compile."""
    rng, clock = random.Random(0), Clock()
    pace = Pace(clock)
    sizes = [rng.randint(500, 2000) for _ in range(1000)]
    for i, tokens in enumerate(sizes[:20]):
        take(pace, clock, tokens, tokens / 700 + (90.0 if i == 0 else 0.0))
    truth = sum(sizes[20:]) / 700
    assert pace.left(980 * sum(sizes) / 1000, 980, 0) == pytest.approx(truth, rel=0.02)


def test_pauses_and_validations_are_added() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(WARM_UP + 4):
        take(pace, clock, 100, 1.0, between=0.5)
    assert pace.left(1000, 10, 0) == pytest.approx(10 + 10 * 0.5, rel=0.01)
    clock.now += 30
    pace.validation(20.0)
    take(pace, clock, 100, 1.0, between=0.5)  # the validation was no pause
    left = pace.left(1000, 10, 3)
    assert left == pytest.approx(10 + 10 * 0.4 + 60, rel=0.02)


def test_a_laptop_that_slows_down_is_followed() -> None:
    clock = Clock()
    pace = Pace(clock)
    for seconds in [1.0] * 300 + [2.0] * 200:
        take(pace, clock, 100, seconds)
    assert pace.left(100, 1, 0) == pytest.approx(2.0)
