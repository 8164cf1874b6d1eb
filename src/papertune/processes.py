"""How worker processes come to be. None of them outlives the process that wanted it.

A fresh interpreter takes a quarter of a second until it has imported what reads a PDF. On Linux workers are therefore forked, in some
milliseconds, from a process that has imported it and does nothing else. It is not papertune itself that forks: a fork copies locks and
the GPU's state as they happen to be, without the threads that would let go of them. Elsewhere every worker is a fresh interpreter: macOS' own
libraries do not bear a fork, and Windows has none.

Why not the fork server of ``multiprocessing``: there is one for all of a program and for good, nobody waits for it (so what its children used
is in nobody's account), and before Python 3.12.8 every child imports the main module anew.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle, send_handle
from typing import Protocol

Life = Callable[[Connection], object]
"""What a process does, from its start to its end."""

_SPAWN = multiprocessing.get_context("spawn")
_START = 120.0  # seconds the server may take to come up: imports on a cold, busy disk
_REAP = 5.0  # seconds to wait for a dying process: one that waits for a broken disk cannot die, and must not hold up the others
_LOOK = 0.005  # seconds between looks at processes that are dying


class Process(Protocol):
    """``exitcode`` is None until the end of the process is known; negative: the signal that killed it."""

    @property
    def pid(self) -> int | None: ...
    @property
    def exitcode(self) -> int | None: ...
    def kill(self) -> None: ...
    def join(self, timeout: float | None = None) -> None: ...


class Source(Protocol):
    """A process that cannot be had is one that has ended."""

    def start(self, pipe: Connection) -> Process: ...
    def close(self) -> object: ...


def source_of(life: Life, imports: Sequence[str] = (), later_imports: Sequence[str] = ()) -> Source:
    """Makes processes that run ``life(pipe)``, which is pickled. Where they are forked, the modules ``imports`` are imported beforehand, and
    ``later_imports`` once a process has to be replaced."""
    return _Forks(life, imports, later_imports) if sys.platform == "linux" else _Interpreters(life)


class _Interpreters:
    def __init__(self, life: Life) -> None:
        self._life = life

    def start(self, pipe: Connection) -> BaseProcess:
        process = _SPAWN.Process(target=_live, args=(self._life, pipe, os.getpid()), daemon=True)
        process.start()
        return process

    def close(self) -> None:
        pass


class _Forks:
    """Forked by a server, which is started when it is needed; when it ends, so do they."""

    def __init__(self, life: Life, imports: Sequence[str], later_imports: Sequence[str]) -> None:
        self._what = pickle.dumps(life), imports, later_imports
        self._server: BaseProcess | None = None

    def start(self, pipe: Connection) -> Process:
        try:
            if self._server is None:
                self._pipe, theirs = _SPAWN.Pipe()
                server = _SPAWN.Process(target=_fork_on_request, args=(*self._what, theirs, os.getpid()), daemon=True)
                server.start()
                theirs.close()
                self._server = server
            self._pipe.send(("start", 0))
            send_handle(self._pipe, pipe.fileno(), 0)
            return _Forked(self._answer(), self)
        except (OSError, EOFError):
            process = _Forked(None, self)
            process.exitcode = self.close()
            return process

    def end_of(self, pid: int) -> int | None:
        """The exit code of a process that is ending; None when it does not."""
        try:
            self._pipe.send(("end", pid))
            return self._answer()
        except (OSError, EOFError):
            return -signal.SIGKILL  # it went with the server

    def bury(self, pid: int) -> None:
        """The process was killed, and how it ends is of no interest."""
        with contextlib.suppress(OSError):
            self._pipe.send(("bury", pid))

    def close(self) -> int | None:
        """Gives the server's exit code."""
        server, self._server = self._server, None
        if server is None:
            return None
        self._pipe.close()
        server.join(2 * _REAP)
        server.kill()
        server.join(_REAP)
        return server.exitcode

    def _answer(self) -> int | None:
        if not self._pipe.poll(_START):
            raise EOFError
        answer: int | None = self._pipe.recv()
        return answer


class _Forked:
    """Only the server can wait for it. ``pid`` is None when it could not be had."""

    def __init__(self, pid: int | None, source: _Forks) -> None:
        self.pid = pid
        self.exitcode: int | None = None
        self._source, self._killed = source, pid is None

    def kill(self) -> None:
        if self._killed or self.exitcode is not None:  # its number may be another process's by now
            return
        assert self.pid is not None
        self._killed = True
        with contextlib.suppress(ProcessLookupError):  # it went with the server
            os.kill(self.pid, signal.SIGKILL)
        self._source.bury(self.pid)

    def join(self, timeout: float | None = None) -> None:  # noqa: ARG002 - the server has its own patience
        if not self._killed and self.exitcode is None:
            assert self.pid is not None
            self.exitcode = self._source.end_of(self.pid)


def _fork_on_request(pickled: bytes, imports: Sequence[str], later_imports: Sequence[str], pipe: Connection, parent: int) -> None:
    """The life of the server. It has one thread, and no locks that a fork could copy."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's: one would wait here while the process forks, and in every worker
    life: Life = pickle.loads(pickled)
    _import(imports)
    dying: set[int] = set()
    died = False
    while True:
        while not pipe.poll(_LOOK if dying else None):
            dying = {pid for pid in dying if _exit_code(pid) is None}
        try:
            request, pid = pipe.recv()
        except EOFError:
            break
        if request == "start":
            if died and later_imports:
                _import(later_imports)
                later_imports = ()
            pipe.send(_fork(life, pipe))
            continue
        died = True
        if request == "end":
            pipe.send(_exit_code(pid, _REAP))
        else:
            dying.add(pid)
    for pid in dying:
        _exit_code(pid, _REAP)
    os._exit(0)  # there is nothing to put in order here, and papertune waits


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        with contextlib.suppress(Exception):  # a process that needs it will meet this again, and say so of its task
            import_module(module)
    gc.freeze()  # modules are never garbage, and to look at them would copy their pages into every process


def _fork(life: Life, pipe: Connection) -> int | None:
    handle, server = recv_handle(pipe), os.getpid()
    try:
        pid = os.fork()
    except OSError:  # no more processes, or no memory for one
        pid = None
    if pid != 0:
        os.close(handle)
        return pid
    try:
        pipe.close()
        _live(life, Connection(handle), server)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # never back into the server


def _exit_code(pid: int, patience: float = 0.0) -> int | None:
    """None when the process has not ended within so many seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # another server's, with which it went
            return -signal.SIGKILL
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(_LOOK)


def _live(life: Life, pipe: Connection, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for papertune, which lets the unit in progress end
    _die_with(parent)
    life(pipe)


def _die_with(parent: int) -> None:
    """No process outlives a parent that was killed, whatever it is busy with."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)
        return
    import threading

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
