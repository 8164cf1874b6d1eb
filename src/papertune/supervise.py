"""Work done in processes that may crash, hang or eat memory without harming anything else.

``Workers`` keeps a few processes, each running one module-level function on one task at a time. Whatever a task does to its process, the
caller gets exactly one ``Outcome`` that says how it ended, the process is replaced, and the other tasks go on.

Why not a pool from a library: the ones tried either lost the other tasks when a worker died (``ProcessPoolExecutor``), hung for ever
(``multiprocessing.Pool``), or could not limit memory or tell the signal. See ``docs/architecture.md``.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from papertune.errors import WorkersCannotStart
from papertune.processes import Source, source_of

Task = TypeVar("Task")
Status = Literal["ok", "raised", "timeout", "memory", "killed"]

_POLL = 0.05  # seconds between looks at memory and clocks
_START = 120.0  # seconds a process may take to come up: imports on a cold, busy disk
_REAP = 5.0  # seconds to wait for a dying process: one that waits for a broken disk cannot die, and must not hold up the others
_STARTS = 3  # processes in a row that may fail to come up before the run is stopped


COLLECT_AFTER = 20_000
"""New objects between two searches for cycles in a worker. With Python's 700, those go through a parser's millions of objects again and again: a
quarter of pypdf's time for them, and a seventh of ours for 20,000 pages."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended.

    ``ok``: ``value`` is what the function returned. ``raised``: it raised; ``error`` is the exception's type name, ``detail`` its message.
    ``timeout``, ``memory``: it went over a limit and was killed (or raised MemoryError). ``killed``: the process died; ``detail`` names
    the signal or the exit status. ``seconds`` is wall time.
    """

    status: Status
    value: Any = None
    error: str = ""
    detail: str = ""
    seconds: float = 0.0


class Workers(Generic[Task]):
    """``count`` processes that run ``function(task)``; a context manager.

    ``function`` and the tasks are pickled, so it must be importable by name. ``timeout`` is in seconds a task, ``memory_limit`` in bytes of
    resident memory a process. ``imports`` are the modules that ``function`` imports for most tasks, ``later_imports`` those for tasks that have
    failed: processes need not do it one by one (``processes``). ``log`` takes what they print. ``on_start`` is called just before a process gets a
    task. A process is replaced after ``recycle`` tasks, since native libraries leak. Raises WorkersCannotStart when processes cannot even start.
    """

    def __init__(
        self,
        function: Callable[[Task], Any],
        *,
        count: int,
        timeout: float,
        memory_limit: int,
        imports: Sequence[str] = (),
        later_imports: Sequence[str] = (),
        log: Path | None = None,
        on_start: Callable[[Task], None] | None = None,
        recycle: int = 200,
    ) -> None:
        self._count, self._timeout, self._memory = count, timeout, memory_limit
        self._log, self._on_start, self._recycle = log, on_start, recycle
        self._source = source_of(partial(_serve, function, log), imports, later_imports)
        self._waiting: deque[Task] = deque()
        self._slots: list[_Slot[Task]] = []
        self._failed_starts = 0

    def submit(self, task: Task, *, first: bool = False) -> None:
        """Adds a task at the end of the queue, or at its front."""
        self._waiting.appendleft(task) if first else self._waiting.append(task)

    def __len__(self) -> int:
        """Tasks whose outcome has not been returned yet."""
        return len(self._waiting) + sum(slot.busy for slot in self._slots)

    def outcomes(self) -> Iterator[tuple[Task, Outcome]]:
        """Each task with its outcome, as they end. Tasks may be submitted between two of them; ends when none is left."""
        while len(self):
            self._hand_out()
            yield from self._look()

    def running(self) -> list[Task]:
        return [slot.task for slot in self._slots if slot.task is not None]

    def __enter__(self) -> Workers[Task]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for slot in self._slots:
            slot.kill()
        self._source.close()

    def _hand_out(self) -> None:
        for slot in [s for s in self._slots if s.ready and not s.busy]:
            if not self._waiting:
                return
            if self._on_start:
                self._on_start(self._waiting[0])
            slot.give(self._waiting.popleft())
        coming = sum(not slot.ready for slot in self._slots)
        while self._waiting and len(self._slots) < self._count and coming < len(self._waiting):
            self._slots.append(_Slot(self._source))
            coming += 1

    def _look(self) -> Iterator[tuple[Task, Outcome]]:
        talking = wait([slot.pipe for slot in self._slots], timeout=_POLL)
        for slot in list(self._slots):
            outcome = slot.listen() if slot.pipe in talking else slot.over_limit(self._timeout, self._memory)
            if not slot.alive:
                slot.kill()
                self._slots.remove(slot)
                if not slot.ready:
                    self._start_failed(slot)
            if outcome is None:
                continue
            self._failed_starts = 0
            assert slot.task is not None
            task, slot.task = slot.task, None
            if slot.alive and slot.done >= self._recycle:
                slot.kill()
                self._slots.remove(slot)
            yield task, outcome

    def _start_failed(self, slot: _Slot[Task]) -> None:
        self._failed_starts += 1
        if self._failed_starts >= _STARTS:
            where = f" See {self._log}." if self._log else ""
            raise WorkersCannotStart(
                f"{_STARTS} worker processes in a row did not start: {slot.epitaph()}.{where}", "Close other programs, then run papertune doctor."
            )


class _Slot(Generic[Task]):
    """One process, the pipe to it, and the task it has."""

    def __init__(self, source: Source) -> None:
        self.pipe, childs_end = Pipe()
        self.process = source.start(childs_end)
        childs_end.close()  # else the pipe never reports the child's death
        self.task: Task | None = None
        self.ready, self.alive, self.done = False, True, 0
        self._since = time.monotonic()

    @property
    def busy(self) -> bool:
        return self.task is not None

    def give(self, task: Task) -> None:
        self.task, self._since = task, time.monotonic()
        with contextlib.suppress(OSError):  # a process that died idle: listen() will say so
            self.pipe.send(task)

    def listen(self) -> Outcome | None:
        """The outcome of the task, or None when the process only says that it is up."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            return self._died()
        if not self.ready:
            self.ready = True
            return None
        self.done += 1
        status, value, error, detail = answer
        return Outcome(status, value, error, detail, self._seconds())

    def over_limit(self, timeout: float, memory: int) -> Outcome | None:
        if not self.ready:
            if self._seconds() > _START:
                self.alive = False
            return None
        if not self.busy:
            return None
        if self._seconds() > timeout:
            self.alive = False
            return Outcome("timeout", detail=f"still running after {timeout:g} s", seconds=self._seconds())
        used = _resident(self.process.pid)
        if used > memory:
            self.alive = False
            return Outcome("memory", detail=f"used {used >> 20} MiB, limit {memory >> 20} MiB", seconds=self._seconds())
        return None

    def kill(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.join(_REAP)
        self.pipe.close()

    def epitaph(self) -> str:
        """How the process ended, in words. A negative exit code is the signal that killed it."""
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"it ended without an answer, exit status {code}"
        name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"
        return f"it was killed by {name}" + (" (often: the system ran out of memory)" if name == "SIGKILL" else "")

    def _died(self) -> Outcome | None:
        self.alive = False
        self.process.join(_REAP)
        return Outcome("killed", detail=self.epitaph(), seconds=self._seconds()) if self.busy else None

    def _seconds(self) -> float:
        return time.monotonic() - self._since


def _resident(pid: int | None) -> int:
    """Bytes of memory a process holds; 0 when it is gone."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _serve(function: Callable[[Any], Any], log: Path | None, pipe: Connection) -> None:
    """The life of a worker process: answers tasks until the pipe closes."""
    gc.set_threshold(COLLECT_AFTER)
    if log is not None:
        _print_into(log)
    pipe.send(None)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("ok", function(task), "", "")
        except MemoryError as error:
            answer = ("memory", None, "MemoryError", str(error) or "the allocation failed")
        except Exception as error:
            answer = ("raised", None, type(error).__name__, str(error))
        pipe.send(answer)


def _print_into(log: Path) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(handle, stream.fileno())
    os.close(handle)
