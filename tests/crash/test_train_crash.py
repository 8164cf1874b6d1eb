"""``kill -9`` at random moments of training, many of them inside a save: the adapter is that of an uninterrupted run, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training import adapter_hash, losses, write_dataset

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")
ROOT = Path(__file__).parents[2]


class Server:
    """The process of ``training_server.py``."""

    def __init__(self, cache: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "PAPERTUNE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("training_server.py"))]
        self.process = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start(self, **wanted: Any) -> int:
        """Begins to train; returns the process's id."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(wanted, default=str) + "\n")
        self.process.stdin.flush()
        return self._answer("started")

    def end(self) -> int:
        """Waits for the training process; returns how it ended."""
        return self._answer("ended")

    def _answer(self, word: str) -> int:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return int(line.split()[1])
        raise AssertionError("the server died")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("cache"))
    yield server
    assert server.process.stdin is not None
    assert server.process.stdout is not None
    server.process.stdin.close()
    server.process.wait()
    server.process.stdout.close()


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_killed_runs_end_as_if_they_had_not_been(kills: int, server: Server, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", train=20, val=1)
    wanted = {"data": data, "max_seq_len": 32, "save_steps": 1}  # a save after each step: most kills fall into one
    server.start(**wanted, output=tmp_path / "warm", max_steps=1)  # makes the tiny model
    assert server.end() == 0
    began = time.monotonic()
    server.start(**wanted, output=tmp_path / "whole")
    assert server.end() == 0
    seconds = time.monotonic() - began
    whole, trace = adapter_hash(tmp_path / "whole" / "final"), losses(tmp_path / "whole")

    chance, done, run = random.Random(kills), 0, 0
    while done < kills:
        output = tmp_path / f"run-{run}"
        run += 1
        while True:  # kill the same run again and again until it gets through
            child = server.start(**wanted, output=output)
            if done < kills:
                time.sleep(chance.uniform(0.05, seconds))
                with contextlib.suppress(ProcessLookupError):  # it had just ended
                    os.kill(child, signal.SIGKILL)
            status = server.end()
            if status == 0:
                break
            assert status == -signal.SIGKILL
            done += 1
        assert adapter_hash(output / "final") == whole
        assert losses(output) == trace
        assert {path.name for path in output.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
