"""A hot machine is given time."""

from __future__ import annotations

import pytest

from papertune.events import Event
from papertune.train.cooling import Cooling


def nothing() -> None:
    pass


class Machine:
    """Shows these temperatures one after another; time passes only by sleeping."""

    def __init__(self, *degrees: int | None) -> None:
        self.degrees, self.now, self.slept = list(degrees), 0.0, list[float]()
        self.said: list[Event] = []

    def cooling(self, seconds: float, hottest: int | None) -> Cooling:
        return Cooling(seconds, hottest, self.said.append, read=lambda: self.degrees.pop(0), sleep=self.sleep, clock=lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_a_fixed_pause_after_each_step() -> None:
    machine = Machine()
    cooling = machine.cooling(1.5, None)
    cooling.rest(nothing)
    cooling.rest(nothing)
    assert machine.slept == [1.5, 1.5]


def test_a_hot_gpu_is_waited_for_until_it_is_cooler_than_the_limit() -> None:
    machine = Machine(84, 82, 79, 76, 75)
    machine.cooling(0, 80).rest(nothing)
    assert machine.slept == [5.0] * 4
    assert "84 °C" in str(machine.said)


def test_waiting_can_be_ended() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    for machine, seconds, hottest in ((Machine(), 60.0, None), (Machine(84, 82, 82), 0, 80)):
        with pytest.raises(KeyboardInterrupt):
            machine.cooling(seconds, hottest).rest(stop)
        assert machine.slept == [5.0]


def test_a_cool_gpu_costs_nothing_and_is_not_asked_at_each_step() -> None:
    machine = Machine(60)
    cooling = machine.cooling(0, 80)
    for _ in range(10):
        cooling.rest(nothing)
    assert not machine.slept
    assert not machine.said


def test_a_temperature_nobody_tells_is_said_once() -> None:
    machine = Machine(None)
    cooling = machine.cooling(0, 80)
    cooling.rest(nothing)
    cooling.rest(nothing)
    assert len(machine.said) == 1
