"""A backend may do what it likes to its process: the file goes to the next one, in the same run, and no other file is touched. What ends
papertune itself is found out by the runs that follow."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from papertune.config import ExtractConfig
from papertune.events import Report
from papertune.extract import backend
from papertune.extract.stage import run
from papertune.manifest import Item, read_manifest
from tests.hostile import paper
from tests.misbehaving import MAKER, bad_paper

ROOT = Path(__file__).parents[2]

RUN = """
import sys
from pathlib import Path
from papertune.config import ExtractConfig
from papertune.extract import backend
from papertune.extract.stage import run
from tests.misbehaving import MAKER

if __name__ == "__main__":
    backend.BACKENDS["fast"] = MAKER
    run(ExtractConfig(input_dir=(Path("pdfs"),), output_dir=Path("out"), engine="fast", workers=2))
"""


@pytest.fixture
def pdfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two good papers, read by the misbehaving backend under the name of ``fast``."""
    monkeypatch.setitem(backend.BACKENDS, "fast", MAKER)
    folder = tmp_path / "pdfs"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(paper(1))
    (folder / "z.pdf").write_bytes(paper(2))
    return folder


def extract(pdfs: Path, **settings: object) -> Report:
    given = {"input_dir": (pdfs,), "output_dir": pdfs.parent / "out", "engine": "fast", "workers": 2, **settings}
    return run(ExtractConfig(**given))  # type: ignore[arg-type]


def item(pdfs: Path, name: str) -> Item:
    return read_manifest(pdfs.parent / "out" / ".resume.json")[1][f"../pdfs/{name}"]


ENDS_IN_FAST = {
    "raise": "damaged", "segfault": "crash", "abort": "crash", "kill": "crash", "exit-silently": "crash", "memory-error": "limit_memory",
    "hang": "limit_time", "ignore-sigterm": "limit_time", "eat-memory": "limit_memory",
}  # fmt: skip


def test_a_file_that_kills_its_reader_is_read_by_the_next_and_its_neighbours_do_not_notice(pdfs: Path) -> None:
    for number, how in enumerate(ENDS_IN_FAST):
        (pdfs / f"{how}.pdf").write_bytes(bad_paper(how, 10 + number))
    assert extract(pdfs, timeout=6.0, memory_limit=300).states == {"ok": 2 + len(ENDS_IN_FAST)}
    for how, state in ENDS_IN_FAST.items():
        known = item(pdfs, f"{how}.pdf")
        assert (known["engine"], [failure[:2] for failure in known["failures"]]) == ("pypdf", [["fast", state]]), how
    assert item(pdfs, "a.pdf")["engine"] == item(pdfs, "z.pdf")["engine"] == "fast"
    assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []


def test_a_file_that_defeats_every_backend_ends_in_the_first_ones_state(pdfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.BACKENDS, "pypdf", MAKER)
    monkeypatch.setitem(backend.BACKENDS, "pdfplumber", MAKER)
    (pdfs / "bad.pdf").write_bytes(bad_paper("segfault", 3))
    assert extract(pdfs).states == {"ok": 2, "crash": 1}
    assert "pdfplumber: it was killed by SIGSEGV" in item(pdfs, "bad.pdf")["reason"]
    assert extract(pdfs).fresh


def start(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "run.py").write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.Popen([sys.executable, "run.py"], cwd=folder, env=environment, start_new_session=True)


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_file_that_ends_papertune_itself_is_read_by_pdfplumber_after_the_third_time(pdfs: Path) -> None:
    (pdfs / "m.pdf").write_bytes(bad_paper("kill-parent", 3))
    ends = [start(pdfs.parent).wait(timeout=60) for _ in range(4)]
    assert ends == [-signal.SIGKILL] * 3 + [0]
    assert item(pdfs, "m.pdf")["engine"] == "pdfplumber"
    log = (pdfs.parent / "out" / "extract.log").read_text()
    assert re.findall(r"m\.pdf: papertune ended while (\w+) read it; next is (\w+)", log) == [("fast", "fast")] * 2 + [("fast", "pdfplumber")]
    assert [item(pdfs, name)["engine"] for name in ("a.pdf", "z.pdf")] == ["fast", "fast"]
    assert {path.name for path in (pdfs.parent / "out").glob("*.txt")} == {"a.txt", "m.txt", "z.txt"}


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_crash_seen_before_papertune_was_killed_is_not_tried_again(pdfs: Path) -> None:
    """The reader of bad.pdf dies; while the next backend hangs on it, papertune is killed. The next run begins with that next backend."""
    (pdfs / "bad.pdf").write_bytes(bad_paper("segfault", 3))
    folder = pdfs.parent
    process = start(folder)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        known = read_manifest(folder / "out" / ".resume.json")[1].get("../pdfs/bad.pdf", {})
        if known.get("failures"):
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start(folder).wait(timeout=60) == 0
    assert [failure[:2] for failure in item(pdfs, "bad.pdf")["failures"]] == [["fast", "crash"]]
    assert item(pdfs, "bad.pdf")["engine"] == "pypdf"
    assert (folder / "out" / "extract.log").read_text().count("fast failed") == 1
