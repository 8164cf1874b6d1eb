"""A file is whole or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from papertune.errors import CannotWrite, DiskFull
from papertune.files import make_folder, sha256_of, write_text, writing


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail_half_way() -> None:
        with writing(path) as file:
            file.write(b"half")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - whatever the writer raises comes through
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with writing(tmp_path / "b"):
            os.write(os.open("/dev/full", os.O_WRONLY), b"x" * 100)

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(DiskFull, match="disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(CannotWrite, match="is a file"):
        make_folder(tmp_path / "out")
    with pytest.raises(CannotWrite):
        make_folder(tmp_path / "out" / "deeper")


def test_odd_file_names_survive_in_json(tmp_path: Path) -> None:
    name = "a\udcff\n.pdf"
    write_text(tmp_path / "x.json", json.dumps({"name": name}, ensure_ascii=False))
    assert json.loads((tmp_path / "x.json").read_text("utf-8"))["name"] == name
    assert sha256_of(tmp_path / "x.json") == sha256_of(tmp_path / "x.json")
