"""``kill -9`` at a random moment of any step, then the same command again: the outputs are those of an uninterrupted run, byte for byte."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Step:
    words: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]  # what is compared


STEPS = {
    "extract": Step(("extract", "--input-dir", "pdfs", "--engine", "fast"), ("pdfs",), ("extracted_text/*.txt", "extracted_text/*.blocks.json")),
    "prepare": Step(("prepare", "--val-ratio", "0.2"), ("extracted_text",), ("dataset/*.jsonl",)),
    "train": Step(
        ("train", "--model", "tiny", "--epochs", "1", "--max-seq-len", "128", "--max-steps", "12", "--save-steps", "3"),
        ("dataset",),
        ("lora_output/final/adapter_model.safetensors",),
    ),
    "export": Step(("export",), ("lora_output",), ("*.gguf", "Modelfile")),
}


def start(step: Step, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "papertune", *step.words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **quiet)


def finish(step: Step, folder: Path) -> None:
    process = start(step, folder)
    _, said = process.communicate(timeout=280)
    assert process.returncode == 0, said


def digest(step: Step, folder: Path) -> dict[str, str]:
    files = {path.relative_to(folder).as_posix(): path for pattern in step.writes for path in folder.glob(pattern)}
    assert files
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A folder in which all four steps have run, and how long each took."""
    typeset = pytest.importorskip("papertune.demo.typeset")
    folder = tmp_path_factory.mktemp("uninterrupted")
    typeset.write_papers(folder / "pdfs")
    seconds = {}
    for name, step in STEPS.items():
        begin = time.monotonic()
        finish(step, folder)
        seconds[name] = time.monotonic() - begin
    return folder, seconds


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
@pytest.mark.parametrize("name", STEPS)
def test_a_killed_step_ends_as_if_it_had_not_been(name: str, kills: int, uninterrupted: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    whole, seconds = uninterrupted
    step, chance = STEPS[name], random.Random(f"{name} {kills}")
    for number in range(kills):
        folder = tmp_path / str(number)
        for read in step.reads:
            shutil.copytree(whole / read, folder / read)
        process = start(step, folder)
        time.sleep(chance.uniform(0.1, 1.0) * seconds[name])
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        finish(step, folder)
        assert digest(step, folder) == digest(step, whole), f"kill number {number}"
        left = [path for path in folder.rglob("*") if path.name.endswith(".part")]
        assert left == []
        shutil.rmtree(folder)
