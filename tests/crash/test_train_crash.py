"""``kill -9`` at random moments of training, many of them inside a save: the adapter is that of an uninterrupted run, bit for bit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.crash.train_server import Server
from tests.training import adapter_hash, losses, write_dataset

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def test_killed_runs_end_as_if_they_had_not_been(kills: int, server: Server, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", train=20, val=1)
    wanted = {"data": data, "max_seq_len": 32, "save_steps": 1}  # a save after each step: most kills fall into one
    server.start(**wanted, output=tmp_path / "warm", max_steps=1)  # makes the tiny model
    assert server.end() == [0]
    began = time.monotonic()
    server.start(**wanted, output=tmp_path / "whole")
    assert server.end() == [0]
    seconds = time.monotonic() - began
    whole, trace = adapter_hash(tmp_path / "whole" / "final"), losses(tmp_path / "whole")

    chance, done, run = random.Random(kills), 0, 0
    while done < kills:
        output = tmp_path / f"run-{run}"
        run += 1
        while True:  # kill the same run again and again until it gets through
            (child,) = server.start(**wanted, output=output)
            if done < kills:
                time.sleep(chance.uniform(0.05, seconds))
                with contextlib.suppress(ProcessLookupError):  # it had just ended
                    os.kill(child, signal.SIGKILL)
            (status,) = server.end()
            if status == 0:
                break
            assert status == -signal.SIGKILL
            done += 1
        assert adapter_hash(output / "final") == whole
        assert losses(output) == trace
        assert {path.name for path in output.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
