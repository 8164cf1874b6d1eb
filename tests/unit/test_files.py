"""A file is whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as testing
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.numpy import load_file

from papertune.errors import CannotWrite, DiskFull
from papertune.files import make_folder, sha256_of, write_tensors, write_text, writing


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


ARRAYS = st.sampled_from([np.float32, np.uint8]).flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=3, max_side=4)))


@testing(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), ARRAYS, min_size=1, max_size=5))
def test_tensors_are_read_by_safetensors_and_in_any_order_give_the_same_bytes(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_tensors(path, tensors)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape, found[name].tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes())
    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
    write_tensors(other, {name: np.asarray(tensors[name], order="F") for name in reversed(tensors)})
    assert path.read_bytes() == other.read_bytes()


def test_the_hash_of_a_large_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000  # more than a piece
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
