"""``events.jsonl``: what happened in training and when, a line each, for people and programs; if asked for, the figures as TensorBoard files too."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from papertune.errors import from_os_error
from papertune.files import writing
from papertune.train.board import Board


class EventLog:
    """One JSON object a line, each with ``event``, ``step`` and ``time`` (seconds since 1970). It reads as one run however often it was stopped."""

    def __init__(self, path: Path, step: int, board: Board | None = None) -> None:
        """Goes on after ``step``: lines of later steps, which will come again, and a torn last line are dropped."""
        kept = [line for line in _lines(path) if _step_of(line) <= step]
        with writing(path) as file:
            file.write(b"".join(kept))
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the log
        self._board = board

    def write(self, event: str, step: int, **figures: Any) -> None:
        """May be called from any thread: a line is one write. Raises DiskFull or CannotWrite."""
        try:
            self._file.write(json.dumps({"event": event, "step": step, "time": round(time.time(), 3), **figures}).encode() + b"\n")
            if self._board is not None and event in ("step", "validation"):
                self._board.write(step, {f"{event}/{name}": figure for name, figure in figures.items()})
        except OSError as error:
            raise from_os_error(error, self._path) from error

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
