"""The manifest: whole JSON after every append, readable whatever was torn off, and as quick at item 100,000 as at item 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertune.errors import Busy
from papertune.manifest import Manifest, key_of, read_manifest

VALUES = st.text(max_size=40) | st.integers() | st.none() | st.lists(st.text(max_size=5), max_size=3)
ITEMS = st.lists(st.dictionaries(st.text(max_size=20), VALUES, max_size=4), min_size=1, max_size=4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".resume.json"


def test_it_is_whole_json_after_every_append(path: Path) -> None:
    with Manifest(path, {"code": 1}) as manifest:
        for number in range(5):
            assert len(json.loads(path.read_text())["items"]) == number
            manifest.record(f"key {number}", state="ok", name="line\nbreak \udcff")
    assert read_manifest(path)[1]["key 3"] == {"key": "key 3", "state": "ok", "name": "line\nbreak \udcff"}


def test_items_outlive_the_run_and_later_ones_win(path: Path) -> None:
    with Manifest(path, {}) as manifest:
        manifest.record("a", state="started")
    with Manifest(path, {"second": True}) as manifest:
        assert manifest.items["a"]["state"] == "started"
        manifest.record("a", state="ok")
    assert read_manifest(path) == ({"second": True}, {"a": {"key": "a", "state": "ok"}})


def test_without_resume_it_starts_empty(path: Path) -> None:
    with Manifest(path, {}) as manifest:
        manifest.record("a")
    with Manifest(path, {}, resume=False) as manifest:
        assert manifest.items == {}


@given(records=ITEMS, data=st.data())
def test_torn_anywhere_it_keeps_every_whole_line_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "m.json"
    ends = []
    with Manifest(path, {"code": 1}) as manifest:
        for number, fields in enumerate(records):
            manifest.record(str(number), fields=fields)
            ends.append(path.stat().st_size - len("\n]}\n"))
    cut = data.draw(st.integers(0, path.stat().st_size))
    with path.open("r+b") as file:
        file.truncate(cut)
    whole = {str(number) for number, end in enumerate(ends) if end <= cut}
    assert set(read_manifest(path)[1]) == whole
    with Manifest(path, {"code": 2}) as manifest:
        manifest.record("new")
    assert set(read_manifest(path)[1]) == whole | {"new"}
    json.loads(path.read_text())


def test_two_runs_cannot_write_at_once(path: Path) -> None:
    with Manifest(path, {}), pytest.raises(Busy):
        Manifest(path, {})
    with Manifest(path, {}):
        pass


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", b'[{"key": 1}]', b'{"version": 1, "items": ['])
def test_a_foreign_file_reads_as_empty(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read_manifest(path) == ({}, {})


def test_a_key_changes_with_content_settings_and_code() -> None:
    keys = {key_of("a", {"x": 1}, 1), key_of("b", {"x": 1}, 1), key_of("a", {"x": 2}, 1), key_of("a", {"x": 1}, 2)}
    assert len(keys) == 4
    assert key_of("a", {"x": 1, "y": 2}, 1) == key_of("a", {"y": 2, "x": 1}, 1)
