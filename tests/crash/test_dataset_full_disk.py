"""A disk that fills up at any write: the run stops and says so, and a run with more room ends as if nothing had been."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from papertune.config import PrepareConfig
from papertune.dataset import partitions
from papertune.dataset.stage import run
from papertune.errors import DiskFull
from tests.papers import write_papers
from tests.small_disk import PAGE, resize


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_full_disk_stops_the_run_and_more_room_ends_it(step: int, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "_AT_ONCE", 100)  # so that samples and pairs are written often
    write_papers(tmp_path / "text", count=12, seed=3)
    whole = tmp_path / "whole"
    run(PrepareConfig(input_dir=tmp_path / "text", output_dir=whole))
    used = 2 * sum(path.stat().st_size for path in whole.iterdir())  # the scratch file is about as large as what is made from it
    stopped = []
    for size in range(PAGE, used, step * PAGE):
        resize(small, size)
        out = small / "out"
        said = ""
        try:
            run(PrepareConfig(input_dir=tmp_path / "text", output_dir=out))
        except DiskFull as error:
            said = error.what
        assert said == "" or str(small) in said
        stopped.append(bool(said))
        kept = set(files(out)) if out.exists() else set()
        assert kept <= set(files(whole)), "only finished files are left, and the room of all others is free"
        resize(small, 64 << 20)
        run(PrepareConfig(input_dir=tmp_path / "text", output_dir=out))
        assert files(out) == files(whole), f"{size} bytes"
        subprocess.run(["rm", "-r", out], check=True)
    assert stopped == sorted(stopped, reverse=True)
    assert stopped.count(True) > len(stopped) / 2
