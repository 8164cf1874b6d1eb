"""What is done, item by item, so that a step can go on where it was stopped.

On disk a manifest is one JSON object with one line an item, and stays whole JSON after every append:

    {"version": 1, "header": {…}, "items": [
    {"key": "…", …},
    {"key": "…", …}
    ]}

An append overwrites the closing line with the new item and a new closing line, so it costs the same however many items there are.
A run that is killed in the middle of an append leaves a torn last line; reading drops it, and that item is done again. Items are written
after the files they speak of are safely on disk (``files.writing``), so an item never promises a file that is not whole.

An item's key says *what was done with what*: content hash, settings and code version (``key_of``). A changed setting is a new key, so the
work is done again; unchanged work never is. Later items win over earlier ones with the same key.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from papertune.errors import Busy, from_os_error

VERSION = 1
_CLOSE = b"\n]}\n"
_AT_ONCE = 1000  # lines
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
Item = dict[str, Any]


def key_of(content: str, settings: Mapping[str, Any], code_version: int) -> str:
    """A short key for this content (a hash) under these settings by this version of a step's code."""
    text = json.dumps([content, settings, code_version], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_manifest(path: Path) -> tuple[dict[str, Any], dict[str, Item]]:
    """Header and items by key, without locking. A missing, foreign or wholly torn file reads as empty."""
    header, items, _ = _read(path)
    return header, items


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Item], dict[str, int]]:
    """Header, items by key, and the number of each item's line, so that rewriting can copy the line as it stands."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return {}, {}, {}
    items: dict[str, Item] = {}
    places: dict[str, int] = {}
    with file, _collector_off():
        header = _parse(file.readline() + b"]}").get("header")
        if not isinstance(header, dict):
            return {}, {}, {}
        for number, item in enumerate(_parsed(file), 1):
            if isinstance(item, dict) and isinstance(item.get("key"), str):
                items[item["key"]] = item
                places[item["key"]] = number
    return header, items, places


def _parsed(file: IO[bytes]) -> Iterator[Any]:
    """What stands on each line. Many at once are quicker, and share the names of their fields; all at once would stand in memory thrice."""
    while lines := list(islice(file, _AT_ONCE)):
        try:
            found = json.loads(b"[" + b"".join(lines).rstrip(b",\n") + b"]")
        except ValueError:  # the closing line is among them, or a torn one
            found = []
        yield from found if len(found) == len(lines) else [_parse(line.rstrip(b",\n")) for line in lines]


class Manifest:
    """An open manifest; one process at a time. Use as a context manager.

    ``header`` describes the run that writes now (for a chain of custody: what the previous step's header hashed to).
    Raises Busy when another process has it open, DiskFull or CannotWrite when it cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, resume: bool = True) -> None:
        self.path = path
        self._lock = Lock(path.with_name(path.name + ".lock"))
        try:
            self.items: dict[str, Item] = {}
            places: dict[str, int] = {}
            if resume:
                _, self.items, places = _read(path)
            self._file = self._rewrite(header, set(places.values()))
        except BaseException:
            self._lock.release()
            raise

    def record(self, key: str, **fields: Any) -> None:
        """Appends an item; returns when the operating system has it, so that it survives this process being killed."""
        item = {"key": key, **fields}
        separator = b",\n" if self.items else b"\n"
        line = separator + _dump(item) + _CLOSE
        try:
            written = os.pwrite(self._file.fileno(), line, self._end) if hasattr(os, "pwrite") else self._write_at(line)
            if written < len(line):  # the last bytes of a disk are given without complaint
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise from_os_error(error, self.path) from error
        self.items[key] = item
        self._end += len(line) - len(_CLOSE)

    def start_afresh(self, header: Mapping[str, Any]) -> None:
        """Forgets all items."""
        self._file.close()
        self.items = {}
        self._file = self._rewrite(header, ())

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _rewrite(self, header: Mapping[str, Any], places: Container[int]) -> IO[bytes]:
        """Starts the file afresh with the items that hold, beside the old one first, and leaves it open. ``places`` are their lines' numbers."""
        from papertune.files import writing

        with writing(self.path) as file:
            file.write(_dump({"version": VERSION, "header": dict(header)})[:-1] + b', "items": [')
            separator = b"\n"
            for line in self._lines(places):
                file.write(separator + line)
                separator = b",\n"
            self._end = file.tell()
            file.write(_CLOSE)
        return open(self.path, "r+b", buffering=0)

    def _lines(self, places: Container[int]) -> Iterator[bytes]:
        """The items' lines in these places of the file as it is."""
        if places:
            with open(self.path, "rb") as file:
                for number, line in enumerate(file):
                    if number in places:
                        yield line.rstrip(b",\n")

    def _write_at(self, line: bytes) -> int:
        self._file.seek(self._end)
        return self._file.write(line)


class Lock:
    """A lock file held by one process; the system lets go of it when the process ends, however it ends. No lock on a file system without locks,
    such as some clusters' and shares: there a person sees to it that only one papertune writes."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 - held open as long as the lock
        except OSError as error:
            raise from_os_error(error, path) from error
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            self._file.close()
            raise Busy(f"Another papertune is writing into {path.parent}.", "Wait until it ends, or choose another output folder.") from error

    def release(self) -> None:
        self._file.close()


@contextmanager
def _collector_off() -> Iterator[None]:
    """Without Python's search for cycles, which would go through a hundred thousand new items again and again: four fifths of the time to read
    them. They are kept out of later searches too."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if on:
            gc.enable()


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(", ", ": "), default=str).encode()


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
