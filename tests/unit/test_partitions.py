"""What is put on disk comes back, equal keys together, a bounded part at a time."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertune.dataset import partitions
from papertune.dataset.partitions import Partitions, first_places
from papertune.dataset.scratch import Scratch

KEYS = st.one_of(st.integers(0, 9), st.integers(0, (1 << 64) - 1))
BATCHES = st.lists(st.tuples(st.lists(KEYS, max_size=40), st.integers(0, (1 << 32) - 1)), max_size=12)


@given(BATCHES, st.integers(1, 60))
def test_every_pair_comes_back_with_all_of_its_key(batches: list[tuple[list[int], int]], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder, Scratch(Path(folder)) as scratch:
        patch.setattr(partitions, "_AT_ONCE", at_once)
        pairs = Partitions(scratch)
        for keys, value in batches:
            pairs.add(np.array(keys, np.uint64), value)
        for _ in range(2):
            parts = [(keys.tolist(), values.tolist()) for keys, values in pairs]
            assert all(keys == sorted(keys) for keys, _ in parts)
            assert all(set(a).isdisjoint(b) for k, (a, _) in enumerate(parts) for b, _ in parts[:k])
            back = Counter((key, value) for part in parts for key, value in zip(*part, strict=True))
            assert back == Counter((key, value) for keys, value in batches for key in keys)


@pytest.mark.parametrize("step", [1, 4096, 1 << 20, 3_000_017])
def test_no_part_is_much_larger_than_others_however_the_keys_are_spaced(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "_AT_ONCE", 5000)
    with Scratch(tmp_path) as scratch:
        pairs = Partitions(scratch)
        for first in range(0, 100_000, 1000):
            pairs.add(np.arange(first, first + 1000, dtype=np.uint64) * np.uint64(step), np.arange(first, first + 1000))
        sizes = [len(keys) for keys, _ in pairs]
    assert sum(sizes) == 100_000
    assert max(sizes) <= 6000


def test_places_of_keys() -> None:
    assert first_places(np.array([3, 3, 5, 9, 9], np.uint64)).tolist() == [0, 2, 3, 5]
    assert first_places(np.zeros(0, np.uint64)).tolist() == []


@pytest.mark.skipif(os.name == "nt", reason="there the file has a name, and goes with the process all the same")
def test_the_file_has_no_name(tmp_path: Path) -> None:
    with Scratch(tmp_path) as scratch:
        assert (scratch.append(b"one"), scratch.append(b""), scratch.append(b"two")) == (0, 3, 3)
        assert scratch.read(1, 4) == b"netw"
        assert list(tmp_path.iterdir()) == []
