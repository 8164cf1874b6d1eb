"""Files that are whole or absent: written beside their place, flushed to the disk, renamed into it."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import IO, TYPE_CHECKING

from papertune.errors import CannotWrite, from_os_error

if TYPE_CHECKING:
    import numpy as np

PART = ".part"
_PIECE = 8 << 20  # bytes read at a time: a thread that reads large files seldom asks for the interpreter
_NOT_OFFERED = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS)  # what network file systems answer to fsync of a folder
_NO_TEXT = (b"%PDF", b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # what PDF, EPUB and docx, and older Word files begin with
_TYPES = {"float32": "F32", "uint8": "U8"}  # numpy's names to those of safetensors


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name ``path`` when the block ends without an exception, and leaves nothing behind otherwise.

    Raises DiskFull or CannotWrite for an OSError met on the way.
    """
    part = path.with_name(path.name + PART)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # a name too long is too long here too
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise from_os_error(error, path) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8 with the line ends it has. A lone surrogate (an odd file name) becomes its escape, which JSON reads back."""
    with writing(path) as file:
        file.write(as_bytes(text))


def as_bytes(text: str) -> bytes:
    """As ``write_text`` writes it."""
    return text.encode("utf-8", "backslashreplace")


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A safetensors file of these float32 and uint8 arrays, in order of their names; the same arrays give the same bytes.

    The safetensors package would first build the whole file in memory, holding up every other thread. Format: the length of a JSON header
    in 8 bytes, the header, padded to 8 bytes with spaces, and the arrays one after another.
    """
    import numpy as np

    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    arrays, end = [], 0
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        first, end = end, end + array.nbytes
        header[name] = {"dtype": _TYPES[array.dtype.name], "shape": array.shape, "data_offsets": [first, end]}
        arrays.append(array)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with writing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            file.write(array.data)


def encoding_of(data: bytes) -> str:
    """By the byte order mark; UTF-8 without one."""
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def read_plain(path: Path) -> str:
    """A text file, UTF-8 or as its byte order mark says, with ``\\n`` as line ends. Raises OSError; ValueError when it is no plain text."""
    data = path.read_bytes()
    text = data.decode(encoding_of(data), errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    if data.startswith(_NO_TEXT) or "\0" in text:
        raise ValueError(f"{path} is no plain text.")
    return text


def put_aside(path: Path, *, ending: bool = True) -> Path:
    """Gives a file that a person has edited another name, ``NAME.edited-…``, and returns it. With its own ``ending`` behind that, or without, where
    whoever reads the folder would take it for one more. Raises CannotWrite."""
    mark = sha256_of(path)[:8]
    stem, suffix = (path.stem, path.suffix) if ending else (path.name, "")
    names = (path.with_name(f"{stem}.edited-{mark}{number}{suffix}") for number in chain([""], (f"-{i}" for i in count(2))))
    aside = next(name for name in names if not name.exists())
    try:
        path.rename(aside)
    except OSError as error:
        raise from_os_error(error, aside) from error
    return aside


def make_folder(path: Path) -> None:
    """Creates the folder and its parents. Raises CannotWrite or DiskFull."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CannotWrite(f"{path} is a file, not a folder.", "Choose another folder.") from error
    except OSError as error:
        raise from_os_error(error, path) from error


def sync_folder(path: Path) -> None:
    """Makes a rename in this folder survive a power cut, where the system offers it."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


