"""Pages of a mapped file that are let go while it is read: what is read stays the same, and few are there at once."""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from papertune.export import pages
from papertune.export.pages import FewPages

SIZE, MOST = 16 << 20, 2 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is mapped")


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, mmap.mmap]]:
    """A file of random bytes and the whole of it mapped, as llama.cpp does."""
    monkeypatch.setattr(pages, "_MOST", MOST)
    path = tmp_path / "with a space.gguf"
    path.write_bytes(np.random.default_rng(0).bytes(SIZE))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as view:
        yield path, view


def read(view: mmap.mmap) -> bytes:
    """A byte of every page, so that all are resident."""
    return view[:: mmap.PAGESIZE]


def resident(path: Path) -> int:
    """Bytes of the file that are resident, by smaps."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    return next(int(line.split()[1]) << 10 for line in lines[at:] if line.startswith("Rss:"))


def falls(path: Path, most: int) -> bool:
    """Whether no more than ``most`` bytes are resident in the end."""
    until = time.monotonic() + 20
    while resident(path) > most and time.monotonic() < until:
        time.sleep(0.01)
    return resident(path) <= most


def test_few_pages_stay_and_all_read_the_same(mapped: tuple[Path, mmap.mmap]) -> None:
    path, view = mapped
    few = FewPages(path, 0, SIZE)
    few.start()
    try:
        for _ in range(3):
            assert read(view) == path.read_bytes()[:: mmap.PAGESIZE]
            assert falls(path, 2 * MOST)
    finally:
        few.stop()
    few.stop()
    read(view)
    assert resident(path) == SIZE


def test_what_lies_before_and_behind_is_left_alone(mapped: tuple[Path, mmap.mmap]) -> None:
    path, view = mapped
    few = FewPages(path, begin=SIZE // 4 + 1, end=SIZE // 2 + 1)
    few.start()
    try:
        read(view)
        assert falls(path, SIZE * 3 // 4 + mmap.PAGESIZE)
    finally:
        few.stop()
    assert resident(path) >= SIZE * 3 // 4


def test_a_private_mapping_that_was_written_to_keeps_what_was_written(mapped: tuple[Path, mmap.mmap]) -> None:
    path, _ = mapped
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as own:
        own[:100] = bytes(100)
        few = FewPages(path, 0, SIZE)
        few.start()
        read(own)
        time.sleep(0.1)
        few.stop()
        assert own[:100] == bytes(100)
