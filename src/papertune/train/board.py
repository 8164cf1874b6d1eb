"""TensorBoard's event files, written without TensorBoard: ``tensorboard --logdir lora_output/tensorboard`` draws the curves.

A file is a row of records, each with its length, the length's checksum, the content and its checksum (TFRecord, CRC-32C, masked). The
content is a protocol-buffer message ``Event``: wall_time = 1 (double), step = 2 (varint), file_version = 3 (string), summary = 5 with any
number of value = 1 { tag = 1 (string), simple_value = 2 (float) }. Sources: tensorflow/core/lib/io/record_writer.h and
tensorflow/core/util/event.proto; CRC-32C is of RFC 3720, appendix B.4.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from papertune.errors import from_os_error
from papertune.files import make_folder


class Board:
    """One event file more in ``folder``; those of earlier runs of the same training stay, and TensorBoard reads them in order."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        now = time.time()
        path = folder / f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        try:
            self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - open as long as the board
        except OSError as error:
            raise from_os_error(error, path) from error
        self._file.write(_record(_double(1, now) + _bytes(3, b"brain.Event:2")))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        values = b"".join(_bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in scalars.items())
        self._file.write(_record(_double(1, time.time()) + _varint(2 << 3) + _varint(step) + _bytes(5, values)))

    def close(self) -> None:
        self._file.close()


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first; the top bit says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _masked_crc(data: bytes) -> bytes:
    crc = _crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        table.append(entry)
    return table


_TABLE = _table()
