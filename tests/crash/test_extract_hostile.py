"""Every file made to break readers ends in a state that was promised, and the good papers among them are read as if they were alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from papertune.config import ExtractConfig
from papertune.events import Report
from papertune.extract import backend
from papertune.extract.stage import run
from papertune.manifest import read_manifest
from tests import hostile
from tests.misbehaving import MAKER, bad_paper

HEAVY = {"20000-pages.pdf", "3000000-operators.pdf", "form-fan-out.pdf", "form-to-itself.pdf", "stream-bomb.pdf", "page-tree-100000-deep.pdf"}
"""Files that take seconds, or run into a limit with every backend."""


def extract(folder: Path, out: Path, **settings: object) -> Report:
    given = {"input_dir": (folder,), "output_dir": out, "engine": "fast", "workers": 2, "memory_limit": 1024, **settings}
    return run(ExtractConfig(**given))  # type: ignore[arg-type]


def states(out: Path) -> dict[str, str]:
    return {key.rpartition("/")[2]: item["state"] for key, item in read_manifest(out / ".resume.json")[1].items()}


def broken_promises(out: Path, names: set[str]) -> dict[str, str]:
    ended = states(out)
    return {name: ended.get(name, "nothing") for name in names if ended.get(name) not in hostile.CORPUS[name][1]}


def test_light_files_end_as_promised(tmp_path: Path) -> None:
    folder, names = tmp_path / "hostile", set(hostile.CORPUS) - HEAVY
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(hostile.CORPUS[name][0]())
    before = {path.name for path in tmp_path.iterdir()}
    report = extract(folder, tmp_path / "out", timeout=30.0)
    assert broken_promises(tmp_path / "out", names) == {}
    assert report.states.total() == len(names)
    texts = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.txt")}
    assert len(texts) == report.states["ok"] + report.states["partial"]
    assert all("root:" not in text for text in texts.values())
    assert "ha" * 50 not in texts["entity-bomb-in-chapter"]
    assert {path.name for path in tmp_path.iterdir()} - before == {"out"}
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="pipes, and names that Windows has not")
def test_the_whole_corpus_beside_crashing_backends_and_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it takes is measured by ``benchmarks/bench_hostile.py``."""
    monkeypatch.setitem(backend.BACKENDS, "fast", MAKER)
    folder, limit = tmp_path / "hostile", 20.0
    hostile.write_corpus(folder)
    for number, how in enumerate(["segfault", "abort", "kill", "exit-silently", "hang", "ignore-sigterm", "eat-memory", "raise"]):
        (folder / f"{how}.pdf").write_bytes(bad_paper(how, 200 + number))
    for name, data in hostile.ODD_NAMES.items():
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(data)
    os.mkfifo(folder / "pipe.pdf")
    (folder / "loop").symlink_to(folder)
    good = tmp_path / "good"
    good.mkdir()
    for name in states_to_be_ok():
        (good / name).write_bytes((folder / name).read_bytes())
    extract(good, tmp_path / "good-out", timeout=limit)
    report = extract(folder, tmp_path / "out", timeout=limit)
    items = read_manifest(tmp_path / "out" / ".resume.json")[1].values()

    assert report.states.total() == len(items) == len(list(folder.iterdir())) - 1  # the loop of links is no file
    assert broken_promises(tmp_path / "out", set(hostile.CORPUS)) == {}
    assert [item["state"] for item in items if item["key"].endswith(("segfault.pdf", "hang.pdf", "eat-memory.pdf"))] == ["ok"] * 3
    for path in (tmp_path / "good-out").glob("*.txt"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []
    assert not list((tmp_path / "out").glob("*.part"))


def states_to_be_ok() -> list[str]:
    """Files that can only end well."""
    return [name for name, (_, promised) in hostile.CORPUS.items() if promised == {"ok"}]
