"""``kill -9`` of the whole process group at random moments, once or twice over, and then a run to the end: texts, sidecars and the state of every
file are those of a run that was left alone. Files of every sort are among them: good, damaged, locked, the same twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from papertune.manifest import read_manifest
from tests import hostile

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "papertune", "extract", "--engine", "fast", "--workers", "2"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kill -9 of a process group")


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(COMMAND, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def finish(folder: Path) -> float:
    begin = time.monotonic()
    process = start(folder)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    return time.monotonic() - begin


def result(folder: Path) -> tuple[dict[str, bytes], dict[str, tuple[str, str, str]]]:
    """Outputs by name, with whatever temporary files are left; state, engine and reason by file."""
    out = folder / "extracted_text"
    items = read_manifest(out / ".resume.json")[1]
    known = {key: (item["state"], item.get("engine", ""), item["reason"].replace(str(folder), "")) for key, item in items.items()}
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name.endswith((".txt", ".blocks.json", ".part"))}, known


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder that was extracted without interruption, and the seconds that took."""
    folder = tmp_path_factory.mktemp("whole")
    pdfs = folder / "pdfs"
    (pdfs / "more").mkdir(parents=True)
    for number in range(8):
        (pdfs / f"{number}.pdf").write_bytes(hostile.paper(number, pages=20))
    for name in ("locked.pdf", "head-and-noise.pdf", "page-tree-loop.pdf", "few-words.pdf", "empty.pdf", "half.epub", "fonts-encrypted.epub"):
        (pdfs / "more" / name).write_bytes(hostile.CORPUS[name][0]())
    (pdfs / "more" / "0.pdf").write_bytes(hostile.paper(99))
    (pdfs / "more" / "twice.pdf").write_bytes(hostile.paper(1, pages=20))
    return folder, finish(folder)


SLOW = [pytest.mark.slow, pytest.mark.timeout(6000)]


@pytest.mark.parametrize("trials", [4, pytest.param(20, marks=SLOW), pytest.param(100, marks=SLOW)])
def test_a_killed_run_and_the_next_are_as_one(trials: int, whole: tuple[Path, float], tmp_path: Path) -> None:
    original, seconds = whole
    expected = result(original)
    assert {state for state, _, _ in expected[1].values()} == {"ok", "needs_password", "damaged", "too_short", "not_pdf", "duplicate"}
    chance = random.Random(trials)
    for trial in range(trials):
        folder = tmp_path / str(trial)
        shutil.copytree(original / "pdfs", folder / "pdfs")
        moments = [chance.uniform(0.1, 1.0) * seconds for _ in range(1 + trial % 2)]
        for moment in moments:
            process = start(folder)
            time.sleep(moment)
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            assert psutil.wait_procs(family, timeout=10)[1] == []
        finish(folder)
        assert result(folder) == expected, f"trial {trial}, killed after {moments} s"
        shutil.rmtree(folder)
