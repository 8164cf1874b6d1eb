"""Training in several processes: the result is that of one, and none is left behind when another ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from papertune.adapter import open_adapter
from tests.crash.train_server import ROOT, Server
from tests.training import adapter_hash, losses, settings, write_dataset

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")


@pytest.fixture(scope="module")
def wanted(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    data = write_dataset(tmp_path_factory.mktemp("data"), train=20, val=2)
    server.start(data=data, output=data / "warm", max_steps=1)  # makes the tiny model
    assert server.end() == [0], server.said
    return {"data": data, "max_seq_len": 32, "save_steps": 2}


@pytest.fixture(scope="module")
def alone(server: Server, wanted: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone")
    server.start(**wanted, output=output)
    assert server.end() == [0], server.said
    return output


def train(server: Server, processes: int, **wanted: Any) -> str:
    server.start(**wanted, processes=processes)
    assert server.end() == [0] * processes, server.said
    return server.said


def assert_same(one: Path, other: Path) -> None:
    """Sums of the same float32 numbers in another order."""
    assert list(losses(one).values()) == pytest.approx(list(losses(other).values()), rel=1e-5)
    ours, theirs = open_adapter(one / "final").tensors(), open_adapter(other / "final").tensors()
    assert max(np.abs(ours[name] - theirs[name]).max() for name in ours) < 1e-4


@pytest.mark.parametrize("processes", [2, 3])
def test_the_result_does_not_depend_on_the_number_of_processes(
    processes: int, server: Server, wanted: dict[str, Any], alone: Path, tmp_path: Path
) -> None:
    """With dropout: each sequence has its own, whoever computes it."""
    said = train(server, processes, **wanted, output=tmp_path)
    assert f"and {processes - 1} more" in said
    assert said.count("Training on") == 1, "only the first process speaks"
    assert_same(tmp_path, alone)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in alone.iterdir()}


def test_the_same_number_of_processes_gives_the_same_bits_and_more_than_there_is_work_are_idle(
    server: Server, wanted: dict[str, Any], tmp_path: Path
) -> None:
    few = {**wanted, "grad_accum": 1, "max_steps": 3}
    for name in ("a", "b"):
        said = train(server, 2, **few, output=tmp_path / name)
    assert "1 of them idle" in said
    assert adapter_hash(tmp_path / "a" / "final") == adapter_hash(tmp_path / "b" / "final")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_killed_runs_go_on_with_another_number_of_processes(server: Server, wanted: dict[str, Any], alone: Path, tmp_path: Path) -> None:
    """2 → 1 → 2: each but the last is killed once it has saved a checkpoint more."""
    for processes, step in ((2, 2), (1, 4)):
        children = server.start(**wanted, output=tmp_path, processes=processes, cooldown=0.3)
        while not (tmp_path / f"checkpoint-{step}").exists():
            time.sleep(0.02)
        os.kill(children[-1], signal.SIGKILL)  # the others notice
        statuses = server.end()
        assert statuses[-1] == -signal.SIGKILL
        assert statuses[:-1] == [6] * (processes - 1), server.said
        assert "error[process-lost]" in server.said or processes == 1
    train(server, 2, **wanted, output=tmp_path)
    assert_same(tmp_path, alone)


def test_ctrl_c_in_any_process_stops_all_at_the_same_step(server: Server, wanted: dict[str, Any], alone: Path, tmp_path: Path) -> None:
    children = server.start(**{**wanted, "save_steps": 100}, output=tmp_path, processes=2, cooldown=0.3)
    while not (tmp_path / "events.jsonl").exists() or '"step": 1,' not in (tmp_path / "events.jsonl").read_text():
        time.sleep(0.02)
    os.kill(children[1], signal.SIGINT)
    assert server.end() == [130, 130], server.said
    assert server.said.count("error[interrupted]") == 1
    train(server, 2, **wanted, output=tmp_path)
    assert_same(tmp_path, alone)


def test_an_error_of_the_first_process_ends_all(server: Server, wanted: dict[str, Any], tmp_path: Path) -> None:
    server.start(**wanted, output=tmp_path, processes=2, resume=str(tmp_path / "checkpoint-9"))
    assert server.end() == [6, 6]
    assert server.said.count("error[bad-checkpoint]") == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [["torchrun"], [sys.executable, "-m", "torch.distributed.run"]])
def test_torchrun_starts_the_script(launcher: list[str], wanted: dict[str, Any], alone: Path, tmp_path: Path) -> None:
    config = settings(wanted["data"], tmp_path)
    program = shutil.which(launcher[0], path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        pytest.skip("torchrun is not on the path")
    flags = ["--model", "tiny", "--train-file", config.train_file, "--val-file", config.val_file, "--output-dir", tmp_path, "--max-seq-len", 32]
    more = ["--save-steps", 2, "--eval-steps", 6]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [program, *launcher[1:], "--standalone", "--nproc-per-node", "2", ROOT / "finetune" / "finetune.py", *flags, *more]
    answer = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("Held-out bits per byte") == 1
    assert_same(tmp_path, alone)
