"""Files that are whole or absent: written beside their place, flushed to the disk, renamed into it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from papertune.errors import CannotWrite, from_os_error

PART = ".part"


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
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise from_os_error(error, path) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8 with the line ends it has. A lone surrogate (an odd file name) becomes its escape, which JSON reads back."""
    with writing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


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
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


