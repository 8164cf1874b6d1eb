"""The GGUF file format, version 3: magic, counts, metadata, tensor table, padding, tensor data. All numbers little-endian.

Only the head is made or read here; tensor data streams past (``stream``). Reference: ggml's docs/gguf.md.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from papertune.errors import BadGguf
from papertune.export.quantize.types import BY_NUMBER, TensorType

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
Kind = Literal["u32", "i32", "f32", "bool", "str", "u64", "[i32]", "[f32]", "[str]"]
Value = int | float | bool | str | bytes | Sequence[int] | Sequence[float] | Sequence[bytes]

_NUMBERS: dict[str, int] = {"u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "u64": 10}
_FORMATS: dict[int, str] = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_REMEDY = "Run export_model.py without --skip-convert."


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of the metadata."""

    key: str
    kind: Kind
    value: Value


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of the table: ``shape`` as in Hugging Face (rows, columns), ``offset`` from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def size(self) -> int:
        """Bytes of data, without the padding after it."""
        rows = 1
        for extent in self.shape[:-1]:
            rows *= extent
        return rows * self.type.row_bytes(self.shape[-1])


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before the tensor data. ``data_start`` is the data's place in the file, ``file_size`` the size of the whole file."""

    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_start: int

    @property
    def file_size(self) -> int:
        return self.data_start + sum(padded(tensor.size) for tensor in self.tensors)


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def lay_out(tensors: Iterable[tuple[str, tuple[int, ...], TensorType]]) -> tuple[TensorInfo, ...]:
    """The table of these tensors, one after the other."""
    table, offset = [], 0
    for name, shape, kind in tensors:
        table.append(TensorInfo(name, shape, kind, offset))
        offset += padded(table[-1].size)
    return tuple(table)


def head_bytes(metadata: Sequence[Entry], tensors: Sequence[TensorInfo]) -> bytes:
    """The head of a GGUF file, padded so that the tensor data follows at once."""
    out = io.BytesIO()
    out.write(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
    for entry in metadata:
        _write_string(out, entry.key.encode())
        _write_value(out, entry.kind, entry.value)
    for tensor in tensors:
        _write_string(out, tensor.name.encode())
        out.write(struct.pack("<I", len(tensor.shape)))
        out.write(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
        out.write(struct.pack("<IQ", tensor.type.number, tensor.offset))
    return out.getvalue().ljust(padded(out.tell()), b"\0")


def _write_string(out: io.BytesIO, text: bytes) -> None:
    out.write(struct.pack("<Q", len(text)))
    out.write(text)


def _write_value(out: io.BytesIO, kind: Kind, value: Value) -> None:
    if kind.startswith("["):
        assert isinstance(value, Sequence)
        inner = _NUMBERS[kind[1:-1]]
        out.write(struct.pack("<IIQ", _ARRAY, inner, len(value)))
        if inner == _STRING:
            for text in value:
                assert isinstance(text, bytes)
                _write_string(out, text)
        else:
            out.write(struct.pack(f"<{len(value)}{_FORMATS[inner]}", *value))
        return
    number = _NUMBERS[kind]
    out.write(struct.pack("<I", number))
    if number == _STRING:
        _write_string(out, value if isinstance(value, bytes) else str(value).encode())
    else:
        out.write(struct.pack(f"<{_FORMATS[number]}", value))


def read_head(path: Path) -> Head:
    """The head of a GGUF file, checked to be whole: all its tensor data must be there. Raises BadGguf."""
    try:
        with path.open("rb") as file:
            head = _Reader(file, path).head()
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise BadGguf(f"There is no GGUF file at {path}.", _REMEDY) from error
    except OSError as error:
        raise BadGguf(f"{path} cannot be read: {error.strerror}.", _REMEDY) from error
    last = max(head.tensors, key=lambda t: t.offset)
    if size < head.data_start + last.offset + last.size:
        raise BadGguf(f"{path} is cut off: {size} bytes of {head.file_size}.", _REMEDY)
    return head


class _Reader:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path

    def head(self) -> Head:
        try:
            magic, version, tensor_count, entry_count = struct.unpack("<4sIQQ", self._take(24))
            if magic != MAGIC:
                raise BadGguf(f"{self._path} is not a GGUF file.", _REMEDY)
            if version not in (2, 3):
                raise BadGguf(f"{self._path} is GGUF version {version}; versions 2 and 3 are known.", _REMEDY)
            metadata = {}
            for _ in range(entry_count):
                key = self._string().decode()
                metadata[key] = self._value(self._number("I"))
            tensors = tuple(self._tensor() for _ in range(tensor_count))
            if not tensors:
                raise BadGguf(f"{self._path} holds no tensors.", _REMEDY)
            alignment = metadata.get("general.alignment", ALIGNMENT)
            if not isinstance(alignment, int) or alignment < 1:
                raise ValueError(alignment)
        except (struct.error, UnicodeDecodeError, KeyError, ValueError, MemoryError, OverflowError) as error:
            raise BadGguf(f"{self._path} is damaged: its head cannot be read.", _REMEDY) from error
        return Head(metadata, tensors, -(-self._file.tell() // alignment) * alignment)

    def _take(self, count: int) -> bytes:
        if count > 1 << 30:  # a damaged length
            raise ValueError(count)
        taken = self._file.read(count)
        if len(taken) < count:
            raise ValueError("the file ends within its head")
        return taken

    def _number(self, code: str) -> int:
        return int(struct.unpack(f"<{code}", self._take(struct.calcsize(code)))[0])

    def _string(self) -> bytes:
        return self._take(self._number("Q"))

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._string().decode("utf-8", "replace")
        if kind != _ARRAY:
            value: Value = struct.unpack(f"<{_FORMATS[kind]}", self._take(struct.calcsize(_FORMATS[kind])))[0]
            return value
        inner, count = self._number("I"), self._number("Q")
        if inner == _STRING:
            return [self._string() for _ in range(count)]
        code = _FORMATS[inner]
        values: Value = struct.unpack(f"<{count}{code}", self._take(count * struct.calcsize(code)))
        return values

    def _tensor(self) -> TensorInfo:
        name = self._string().decode()
        shape = tuple(self._number("Q") for _ in range(self._number("I")))
        kind, offset = self._number("I"), self._number("Q")
        return TensorInfo(name, tuple(reversed(shape)), BY_NUMBER[kind], offset)
