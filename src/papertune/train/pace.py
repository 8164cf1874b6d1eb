"""How much longer training takes, by what the last steps took: in tokens, since steps differ in length.

The first steps of a process compile kernels, allocate memory and choose algorithms, so they do not count. Neither does the first piece of a
validation, for the same reason. What is spent between steps (saves, pauses to cool down) is told apart and added for each step to come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WARM_UP = 2  # steps of a process that do not count
LATELY = 200  # steps that do: a laptop slows down as it gets warm


@dataclass
class Pace:
    """``step`` after each step, ``validation`` after each validation. Times are in seconds."""

    clock: Callable[[], float]
    validation_seconds: float = 0.0  # of one validation
    _steps: deque[tuple[int, float, float]] = field(default_factory=lambda: deque(maxlen=LATELY))  # tokens, seconds, and seconds between
    _ended: float | None = None  # when the last step or validation ended
    _seen: int = 0

    def step(self, tokens: int, seconds: float) -> None:
        """A step of so many tokens has just ended."""
        now = self.clock()
        between = 0.0 if self._ended is None else max(0.0, now - self._ended - seconds)
        self._ended = now
        self._seen += 1
        if self._seen > WARM_UP:
            self._steps.append((tokens, seconds, between))

    def validation(self, seconds: float) -> None:
        """A validation has just ended that takes so long when it is not the first."""
        self.validation_seconds = seconds
        self._ended = self.clock()

    def left(self, tokens: float, steps: int, validations: int) -> float | None:
        """Seconds for what is to come; None before enough steps were seen."""
        if not self._steps:
            return None
        seen = sum(step[0] for step in self._steps)
        seconds = sum(step[1] for step in self._steps)
        between = sum(step[2] for step in self._steps)
        return tokens * seconds / seen + steps * between / len(self._steps) + validations * self.validation_seconds
