"""Whatever a task does to its process, it gets one outcome that says what happened, and the other tasks go on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from papertune.errors import WorkersCannotStart
from papertune.supervise import Outcome, Workers
from tests.crashers import misbehave

ROOT = Path(__file__).parents[2]


def outcomes_of(tasks: list[str], **limits: object) -> list[tuple[str, Outcome]]:
    settings = {"count": 2, "timeout": 20.0, "memory_limit": 1 << 30, **limits}
    with Workers(misbehave, **settings) as workers:  # type: ignore[arg-type]
        for task in tasks:
            workers.submit(task)
        return list(workers.outcomes())


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("raise", "raised", "no such object"),
        ("segfault", "killed", "SIGSEGV"),
        ("abort", "killed", "SIGABRT"),
        ("kill", "killed", "SIGKILL"),
        ("memory-error", "memory", "allocation"),
        ("exit-silently", "killed", "exit status 0"),
    ],
)
def test_each_end_is_told_apart(how: str, status: str, words: str) -> None:
    [(task, outcome)] = outcomes_of([how])
    assert (task, outcome.status) == (how, status)
    assert words in outcome.detail


@pytest.mark.parametrize("how", ["hang", "ignore-sigterm"])
def test_a_task_over_its_time_is_killed(how: str) -> None:
    begin = time.monotonic()
    [(_, outcome)] = outcomes_of([how], timeout=0.5)
    assert outcome.status == "timeout"
    assert time.monotonic() - begin < 15


def test_a_task_over_its_memory_is_killed() -> None:
    [(_, outcome)] = outcomes_of(["eat-memory"], memory_limit=300 << 20)
    assert outcome.status == "memory"
    assert "limit 300 MiB" in outcome.detail


def test_good_tasks_survive_bad_neighbours_and_no_process_is_left() -> None:
    tasks = ["good", "segfault", "good", "raise", "exit-silently", "good", "kill", "good", "hang", "good"]
    ended = outcomes_of(tasks, timeout=1.0)
    assert Counter(task for task, _ in ended) == Counter(tasks)
    assert all(outcome.status == "ok" for task, outcome in ended if task == "good")
    assert workers_here() == []


def workers_here() -> list[psutil.Process]:
    """Our worker processes and what forks them, the dead that nobody has waited for included; not Python's own tracker of semaphores."""
    return [child for child in psutil.Process().children(recursive=True) if "resource_tracker" not in words_of(child)]


def words_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.ZombieProcess:
        return ""


def test_tasks_may_be_added_while_others_run() -> None:
    with Workers(misbehave, count=1, timeout=20, memory_limit=1 << 30) as workers:
        workers.submit("segfault")
        ended = []
        for task, outcome in workers.outcomes():
            ended.append((task, outcome.status))
            if outcome.status != "ok":
                workers.submit("good", first=True)
    assert ended == [("segfault", "killed"), ("good", "ok")]


def test_a_process_is_replaced_after_its_share_of_tasks() -> None:
    ended = outcomes_of(["good"] * 5, count=1, recycle=2)
    assert len({outcome.value for _, outcome in ended}) == 3


def test_what_workers_print_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    outcomes_of(["chatter"], log=log)
    assert "native noise" in log.read_text()


def test_workers_that_cannot_start_stop_the_run() -> None:
    with Workers(_Unloadable(), count=1, timeout=20, memory_limit=1 << 30) as workers:  # type: ignore[arg-type]
        workers.submit("good")
        with pytest.raises(WorkersCannotStart, match="exit status 3"):
            list(workers.outcomes())


class _Unloadable:
    """Pickles here, breaks the process that loads it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (3,)


FORKED = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


@FORKED
def test_what_forks_has_one_thread_and_leaves_no_zombies() -> None:
    with Workers(misbehave, count=1, timeout=0.3, memory_limit=1 << 30, imports=["numpy"]) as workers:
        for how in ["good", "hang", "segfault", "hang", "good"]:
            workers.submit(how)
        for _ in workers.outcomes():
            [server] = [child for child in psutil.Process().children() if "spawn_main" in words_of(child)]
            assert server.num_threads() == 1
            deadline = time.monotonic() + 5
            while dead := [child for child in server.children() if child.status() == psutil.STATUS_ZOMBIE]:
                assert time.monotonic() < deadline, dead
                time.sleep(0.01)
    assert workers_here() == []


@FORKED
def test_workers_need_not_import_what_was_imported_before_the_fork() -> None:
    with Workers(misbehave, count=1, timeout=20, memory_limit=1 << 30, imports=["colorsys", "no.such.module"], later_imports=["wave"]) as workers:
        for how in ["tell-imports", "segfault", "tell-imports"]:
            workers.submit(how)
        assert [outcome.value for _, outcome in workers.outcomes()] == ["colorsys", None, "colorsys wave"]


@FORKED
def test_tasks_go_on_when_what_forks_is_killed() -> None:
    """The running ones die with it, and are told so; there is no process left that nobody watches."""
    tasks = ["good", "end-my-parent", "good", "good"]
    ended = outcomes_of(tasks, count=1)
    assert [(task, outcome.status) for task, outcome in ended] == [("good", "ok"), ("end-my-parent", "killed"), ("good", "ok"), ("good", "ok")]
    assert "SIGKILL" in ended[1][1].detail
    assert workers_here() == []


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "from papertune.supervise import Workers\nfrom tests.crashers import misbehave\n"
        "if __name__ == '__main__':\n"
        "    with Workers(misbehave, count=1, timeout=100, memory_limit=1 << 30) as w:\n"
        "        w.submit('ignore-sigterm'); w.submit('good'); list(w.outcomes())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    try:
        deadline = time.monotonic() + 30
        while not (children := psutil.Process(parent.pid).children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        children = psutil.Process(parent.pid).children(recursive=True) or children
    finally:
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert children
    assert not alive
