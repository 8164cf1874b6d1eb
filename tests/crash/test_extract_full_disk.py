"""A disk that fills up at any write: the run stops and says so, what was finished stays, and a run with more room ends as if nothing had been."""

from __future__ import annotations

import subprocess
from pathlib import Path

from papertune.config import ExtractConfig
from papertune.errors import DiskFull
from papertune.extract.stage import run
from papertune.manifest import read_manifest
from tests.hostile import paper
from tests.small_disk import PAGE, resize

PAPERS = 3


def extract(pdfs: Path, out: Path) -> None:
    run(ExtractConfig(input_dir=(pdfs,), output_dir=out, engine="pypdf", workers=1))


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith((".txt", ".blocks.json", ".part"))}


def test_a_full_disk_stops_the_run_and_more_room_ends_it(small: Path, tmp_path: Path) -> None:
    pdfs = tmp_path / "pdfs"
    pdfs.mkdir()
    for number in range(PAPERS):
        (pdfs / f"{number}.pdf").write_bytes(paper(number))
    extract(pdfs, tmp_path / "whole")
    used = sum(-(-path.stat().st_size // PAGE) * PAGE for path in (tmp_path / "whole").iterdir())
    stopped = 0
    for size in range(PAGE, used + PAGE, PAGE):
        resize(small, size)
        out = small / "out"
        said = None
        try:
            extract(pdfs, out)
        except DiskFull as error:
            said = error.what
        stopped += said is not None
        assert said is None or str(small) in said
        done = [item["output"] for item in read_manifest(out / ".resume.json")[1].values() if item["state"] == "ok"] if out.exists() else []
        for name in done:
            assert (out / f"{name}.txt").read_bytes() == (tmp_path / "whole" / f"{name}.txt").read_bytes()
        resize(small, 64 << 20)
        extract(pdfs, out)
        assert outputs(out) == outputs(tmp_path / "whole"), f"{size} bytes"
        subprocess.run(["rm", "-r", out], check=True)
    assert stopped >= used // PAGE // 2
