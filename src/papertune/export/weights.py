"""Safetensors files read a few rows at a time.

Rows are read with positioned reads rather than through a memory map: the memory a run takes is then what it asked for, and a file cut short
is an error with a name instead of a SIGBUS.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from papertune.errors import BadModel

DTYPES: dict[str, type[np.generic]] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
_REMEDY = "Download the model again."


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies. ``dtype`` is the safetensors name; ``start`` and ``size`` are bytes in the file ``file``."""

    dtype: str
    shape: tuple[int, ...]
    file: int
    start: int
    size: int


class Weights:
    """The tensors of several safetensors files under one roof; a context manager; safe to read from many threads.

    BF16 values come as the uint16 of their bits. Raises BadModel for a damaged file.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self.tensors: dict[str, Stored] = {}
        self._files = []
        self._lock = threading.Lock()
        try:
            for number, path in enumerate(self.paths):
                self._files.append(open(path, "rb", buffering=0))  # noqa: SIM115 - closed in close()
                self.tensors.update(_header(path, number))
        except OSError as error:
            self.close()
            raise BadModel(f"{error.filename} cannot be read: {error.strerror}.", _REMEDY) from error
        except BaseException:
            self.close()
            raise

    def rows(self, name: str, first: int, last: int) -> NDArray[Any]:
        """Rows ``first`` to ``last`` (exclusive) of a matrix, or the values of a vector, as stored."""
        stored = self.tensors[name]
        dtype = np.dtype(DTYPES[stored.dtype])
        columns = stored.shape[-1]
        row = columns * dtype.itemsize if len(stored.shape) > 1 else dtype.itemsize
        values = np.empty((last - first) * row // dtype.itemsize, dtype)
        self._read(stored, first * row, values)
        return values.reshape(-1, columns) if len(stored.shape) > 1 else values

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self, stored: Stored, skip: int, into: NDArray[Any]) -> None:
        file, view, done = self._files[stored.file], into.data.cast("B"), 0
        while done < len(view):
            try:
                if hasattr(os, "preadv"):
                    got = os.preadv(file.fileno(), [view[done:]], stored.start + skip + done)
                else:
                    with self._lock:
                        file.seek(stored.start + skip + done)
                        got = file.readinto(view[done:])
            except OSError as error:
                raise BadModel(f"{self.paths[stored.file]} cannot be read: {error.strerror}.", _REMEDY) from error
            if not got:
                raise BadModel(f"{self.paths[stored.file]} was cut off while it was read.", _REMEDY)
            done += got


def _header(path: Path, number: int) -> dict[str, Stored]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise BadModel(f"{path} is cut off or not a safetensors file.", _REMEDY)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            return {name: _stored(entry, number, 8 + length, size) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadModel(f"{path} is damaged: {error}.", _REMEDY) from error


def _stored(entry: dict[str, Any], number: int, data: int, file_size: int) -> Stored:
    begin, end = entry["data_offsets"]
    shape = tuple(int(extent) for extent in entry["shape"])
    if entry["dtype"] in DTYPES:
        expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(DTYPES[entry["dtype"]]).itemsize
        if end - begin != expected:
            raise ValueError(f"a tensor of shape {shape} has {end - begin} bytes")
    if begin < 0 or data + end > file_size:
        raise ValueError("it is cut off")
    return Stored(str(entry["dtype"]), shape, number, data + begin, end - begin)
