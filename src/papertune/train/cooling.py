"""Pauses for machines that get too hot: a fixed one after each step, and one until the GPU has cooled.

The temperature is what ``nvidia-smi`` says of the hottest GPU, asked at most every few seconds.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable

from papertune.events import Notice, OnEvent

COOLER_BY = 5  # degrees under the limit at which work goes on
_ASK_EVERY = 5.0  # seconds


def temperature() -> int | None:
    """Degrees Celsius of the hottest NVIDIA GPU; None when nothing tells."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        command = [program, "--query-gpu=temperature.gpu", "--format=csv,noheader,nounits"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return max(int(line) for line in answer.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


class Cooling:
    """``rest`` is called after each step and returns when the next may begin. Meanwhile it calls ``still`` every few seconds, which may raise."""

    def __init__(
        self,
        seconds: float,
        hottest: int | None,
        on_event: OnEvent,
        *,
        read: Callable[[], int | None] = temperature,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._hottest, self._on_event = seconds, hottest, on_event
        self._read, self._sleep, self._clock = read, sleep, clock
        self._asked = -_ASK_EVERY

    def rest(self, still: Callable[[], None]) -> None:
        left = self._seconds
        while left > 0:
            self._sleep(min(left, _ASK_EVERY))
            left -= _ASK_EVERY
            still()
        if self._hottest is None or self._clock() - self._asked < _ASK_EVERY:
            return
        now = self._read()
        if now is None:
            self._on_event(Notice("The GPU's temperature cannot be read, so --max-gpu-temp has no effect.", "warning"))
            self._hottest = None
        elif now > self._hottest:
            self._on_event(Notice(f"The GPU is at {now} °C: waiting until it is at {self._hottest - COOLER_BY}."))
            while now is not None and now > self._hottest - COOLER_BY:
                self._sleep(_ASK_EVERY)
                still()
                now = self._read()
        self._asked = self._clock()
