"""A file for what the step sets aside while it runs: nameless, so that the system removes it however the process ends."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from papertune.errors import from_os_error


class Scratch:
    """Bytes on disk in ``folder``, that only grow. A context manager. Raises DiskFull or CannotWrite."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="scratch-")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise from_os_error(error, folder) from error
        self._end = 0

    def append(self, data: bytes) -> int:
        """Puts ``data`` at the end; returns the place to read it from."""
        at = self._end
        try:
            self._file.seek(at)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise from_os_error(error, self._folder) from error
        self._end += len(data)
        return at

    def read(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        return self._file.read(size)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):  # bytes that found no room are tried once more; append() has told of them
            self._file.close()
