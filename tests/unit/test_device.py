"""How much memory a process may take: the machine's, or less in a container or in a job of a cluster."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from papertune.device import GIB, memory, memory_free, memory_limits
from papertune.train import inputs


def group(folder: Path, limit: str, used: int, cached: int, *, version: int = 2) -> None:
    old = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    names = ("memory.max", "memory.current", "inactive_file") if version == 2 else old
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


def own(folder: Path, text: str) -> Path:
    (folder / "own").write_text(text)
    return folder / "own"


def test_a_job_has_the_limits_of_all_groups_above_it(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    group(groups / "system" / "job_7", str(16 * GIB), 3 * GIB, GIB)
    group(groups / "system" / "job_7" / "step" / "task", "max", 2 * GIB, 0)
    (groups / "system" / "job_7" / "step" / "memory.max").write_text("100")  # a group without figures of its use tells nothing
    assert memory_limits(groups, own(tmp_path, "0::/system/job_7/step/task\n")) == [(16 * GIB, 2 * GIB)]


def test_a_container_sees_its_group_as_the_topmost(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    group(new, str(8 * GIB), GIB, 0)
    assert memory_limits(new, own(tmp_path, "0::/\n")) == [(8 * GIB, GIB)]
    group(old / "memory", str(4 * GIB), GIB, GIB // 2, version=1)
    text = "5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n0::/docker/1f\n"
    assert memory_limits(old, own(tmp_path, text)) == [(4 * GIB, GIB // 2)]


def test_no_limit_where_there_are_no_groups(tmp_path: Path) -> None:
    assert memory_limits(tmp_path, tmp_path / "none") == []
    assert memory_limits(tmp_path, own(tmp_path, "0::/\n")) == []


def test_what_is_free_is_less_than_all() -> None:
    assert 0 < memory_free() < memory()


@pytest.mark.skipif(os.name == "nt", reason="the system's name is asked only elsewhere")
@pytest.mark.parametrize(("release", "asked"), [("6.8.0-45-generic", True), ("5.15.167.4-microsoft-standard-WSL2", False)])
def test_segments_that_grow_are_not_asked_for_where_the_driver_is_that_of_windows(
    release: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")  # put back afterwards
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    inputs.set_up_allocator()
    assert ("expandable_segments:True" in os.environ.get("PYTORCH_ALLOC_CONF", "")) is asked
