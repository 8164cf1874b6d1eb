"""The built-in model is the same bytes everywhere, made once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from papertune import tiny
from papertune.errors import CannotWrite
from papertune.files import sha256_of


def test_its_bytes_never_change_unnoticed(tmp_path: Path) -> None:
    folder = tiny.make_tiny(tmp_path)
    assert sha256_of(folder / "model.safetensors") == "34414f5948064bc2c0988cfc6e5afc304c7beaacdf7e08dc14a34214dbf13e8c"
    assert sha256_of(folder / "tokenizer.model") == "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"


def test_it_is_whole_mistral_in_safetensors(tmp_path: Path) -> None:
    from safetensors import safe_open

    from papertune.family import MISTRAL

    folder = tiny.make_tiny(tmp_path)
    with safe_open(folder / "model.safetensors", framework="np") as file:
        names = set(file.keys())
    assert names == {name for name, _ in MISTRAL.tensors(tiny.LAYERS)}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["MistralForCausalLM"]


def test_it_is_made_once_and_leaves_nothing_else(tmp_path: Path) -> None:
    first = tiny.make_tiny(tmp_path)
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert tiny.make_tiny(tmp_path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == [first]


def test_several_processes_may_make_it_at_the_same_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: tiny.make_tiny(tmp_path), range(3)))
    assert len(folders) == 1
    assert list(tmp_path.iterdir()) == list(folders)


def test_a_cache_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(CannotWrite):
        tiny.make_tiny(tmp_path / "cache")
