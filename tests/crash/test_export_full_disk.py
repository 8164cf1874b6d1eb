"""A disk that fills up at any write of an export: it stops and says so, nothing stands under a final name that is not whole, and a run with
more room ends as if nothing had been."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from papertune.base import open_base
from papertune.config import ExportConfig
from papertune.errors import DiskFull
from papertune.export.stage import run
from papertune.files import sha256_of
from tests.adapters import random_adapter
from tests.small_disk import PAGE, resize

LEFT = {"x.gguf.part", "x.gguf.part.json", "x.gguf.part.json.lock", "merged.part"}  # what a stopped run goes on from
WHOLE = {"x.gguf", "merged", "Modelfile", "lora.gguf"}


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def check_sizes(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    monkeypatch.setattr("papertune.export.room.disk_free", lambda _: 1 << 40)  # as when another program fills the disk meanwhile
    lora = random_adapter(open_base("tiny"), tmp_path / "lora")

    def export(folder: Path) -> None:
        run(ExportConfig(lora_path=lora, gguf_path=folder / "x.gguf", merged_dir=folder / "merged", lora_gguf=folder / "lora.gguf", verify=False))

    export(tmp_path / "whole")
    whole = hashes(tmp_path / "whole")
    used = sum(-(-path.stat().st_size // PAGE) * PAGE for path in (tmp_path / "whole").rglob("*") if path.is_file())
    stopped = 0
    for size in [*range(PAGE, 16 * PAGE, PAGE * max(1, 64 // parts)), *range(16 * PAGE, used + PAGE, max(PAGE, used // parts // PAGE * PAGE))]:
        resize(small, size)
        said = None
        try:
            export(small)
        except DiskFull as error:
            said = error.what
        stopped += said is not None
        assert said is None or str(small) in said
        names = {path.name for path in small.iterdir()}
        assert names <= LEFT | WHOLE
        found = hashes(small)
        assert all(found[name] == whole[name] for name in found if Path(name).parts[0] in WHOLE), f"{size} bytes"
        resize(small, 64 << 20)
        export(small)
        assert hashes(small) == whole, f"{size} bytes"
        subprocess.run(f"rm -r {small}/*", shell=True, check=True)
    assert stopped > parts // 2


def test_a_full_disk_stops_the_export_and_more_room_ends_it(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_sizes(small, tmp_path, monkeypatch, 6)


@pytest.mark.slow
def test_a_disk_that_is_full_at_hundreds_of_places(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_sizes(small, tmp_path, monkeypatch, 400)
