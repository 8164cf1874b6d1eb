"""Preparation killed at any moment, then run again, ends with the same bytes as if it had not been."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from papertune.config import PrepareConfig
from papertune.dataset.stage import run
from papertune.events import Event, Unit
from tests.papers import write_papers

GENERAL = ".general.txt"  # hidden, so that it is no paper
CHILD = """
import sys
from pathlib import Path
import papertune.dataset.preparing as preparing
import papertune.dataset.stage as stage
from papertune.config import PrepareConfig

if __name__ == "__main__":
    preparing._BATCH = 1 << 15
    preparing._SMALL = 0 if sys.argv[3] != "1" else 1 << 40
    print("up", flush=True)
    papers, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    stage.run(PrepareConfig(input_dir=papers, output_dir=out, workers=workers, replay=papers / ".general.txt"))
"""


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_papers(folder, count=24, seed=2)
    (folder / GENERAL).write_text("\n\x1e\n".join(f"The tram to town {k} leaves at {k}. The paper is read on it. " * 9 for k in range(30)))
    return folder


@pytest.fixture(scope="module")
def whole(papers: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole")
    prepare(papers, out)
    return files(out)


def prepare(papers: Path, out: Path) -> None:
    run(PrepareConfig(input_dir=papers, output_dir=out, replay=papers / GENERAL))


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".lock"}


def start(script: Path, papers: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    script.write_text(CHILD)
    source = str(Path(__file__).parents[2] / "src")
    child = subprocess.Popen(
        [sys.executable, str(script), str(papers), str(out), str(workers)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": source}
    )
    assert child.stdout
    assert child.stdout.read(2) == b"up"
    return child


def kill_and_go_on(tmp_path: Path, papers: Path, whole: dict[str, bytes], kills: int) -> None:
    draw = random.Random(7)
    begin = time.monotonic()
    start(tmp_path / "child.py", papers, tmp_path / "timed", 1).communicate()
    length = time.monotonic() - begin
    for k in range(kills):
        out = tmp_path / f"out-{k}"
        child = start(tmp_path / "child.py", papers, out, 1 + k % 2)
        time.sleep(draw.uniform(0, length))
        child.kill()
        child.communicate()
        assert not list(out.glob("scratch-*"))
        if k % 3 == 0:
            start(tmp_path / "child.py", papers, out, 2).communicate()
        prepare(papers, out)
        assert files(out) == whole


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_killed_at_random_moments(tmp_path: Path, papers: Path, whole: dict[str, bytes]) -> None:
    kill_and_go_on(tmp_path, papers, whole, kills=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_killed_at_fifty_moments(tmp_path: Path, papers: Path, whole: dict[str, bytes]) -> None:
    kill_and_go_on(tmp_path, papers, whole, kills=50)


def test_stopped_between_two_papers(tmp_path: Path, papers: Path, whole: dict[str, bytes]) -> None:
    class Stopped(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, Unit) and event.done == 10:
            raise Stopped

    with pytest.raises(Stopped):
        run(PrepareConfig(input_dir=papers, output_dir=tmp_path, replay=papers / GENERAL), on_event=stop)
    prepare(papers, tmp_path)
    assert files(tmp_path) == whole
