"""TensorBoard files: read back by an independent reading of the format, and by TensorBoard itself where it is installed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from papertune.train.board import Board, _crc32c


def test_checksums_are_those_of_rfc_3720() -> None:
    assert _crc32c(bytes(32)) == 0x8A9136AA
    assert _crc32c(b"\xff" * 32) == 0x62A8AB43
    assert _crc32c(bytes(range(32))) == 0x46DD794E
    assert _crc32c(b"123456789") == 0xE3069283


def records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        for content, mask in ((data[:8], data[8:12]), (data[12 : 12 + length], data[12 + length : 16 + length])):
            crc = _crc32c(content)
            assert struct.unpack("<I", mask)[0] == ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF
        data = data[16 + length :]


def written(folder: Path) -> Path:
    board = Board(folder)
    board.write(1, {"step/loss": 2.5})
    board.write(300, {"step/loss": 1.25, "step/lr": 2e-4})
    board.close()
    (path,) = folder.iterdir()
    return path


def test_a_file_holds_a_version_and_an_event_a_step(tmp_path: Path) -> None:
    version, first, second = records(written(tmp_path))
    assert version[9:] == b"\x1a\x0dbrain.Event:2"
    assert first[9:] == b"\x10\x01\x2a\x12\x0a\x10\x0a\x09step/loss\x15" + struct.pack("<f", 2.5)
    assert second[9:].startswith(b"\x10\xac\x02\x2a")
    assert second.endswith(b"\x0a\x07step/lr\x15" + struct.pack("<f", 2e-4))


def test_tensorboard_reads_it(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    written(tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("step/loss")] == [(1, 2.5), (300, 1.25)]
