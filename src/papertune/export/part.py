"""The file being written: it grows tensor by tensor under the name ``….part`` and takes its own name when it is whole.

Beside it a journal holds, after every tensor, the SHA-256 of the file so far. A later run reads the file again, goes on after the last
tensor that agrees with the journal, and has the SHA-256 of the whole file at the end without reading it once more.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from papertune.errors import from_os_error
from papertune.export.gguf import TensorInfo, padded
from papertune.files import PART, make_folder, sync_folder
from papertune.manifest import Manifest

_PIECE = 1 << 20


class Part:
    """An open ``path.part`` with this head; a context manager. ``done`` tensors of an earlier run with the same ``key`` are kept.

    Raises Busy when another process is writing the same file, DiskFull, CannotWrite.
    """

    def __init__(self, path: Path, head: bytes, tensors: Sequence[TensorInfo], key: str) -> None:
        self.path, self.part = path, path.with_name(path.name + PART)
        self._tensors, self._key = tensors, key
        make_folder(path.parent)
        self._journal = Manifest(self.part.with_name(self.part.name + ".json"), {"step": "export", "key": key})
        self._digest = hashlib.sha256()
        try:
            self._file = open(self.part, "r+b" if self.part.exists() else "w+b", buffering=0)  # noqa: SIM115 - closed in __exit__
        except OSError as error:
            self._journal.close()
            raise from_os_error(error, self.part) from error
        try:
            self.done = self._recover(head)
            if not self.done:
                self._file.truncate(0)
                self._file.seek(0)
                self._digest = hashlib.sha256()
                self.write(head)
        except BaseException as error:
            self._file.close()
            self._journal.close()
            if isinstance(error, OSError):
                raise from_os_error(error, self.part) from error
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes of the tensor at hand."""
        view = memoryview(data).cast("B")
        self._digest.update(view)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise from_os_error(error, self.part) from error

    def end_tensor(self) -> None:
        """Pads the tensor at hand and notes it as done."""
        tensor = self._tensors[self.done]
        self.write(bytes(padded(tensor.size) - tensor.size))
        self.done += 1
        self._journal.record(self._name(tensor), sha256=self._digest.hexdigest())

    def sync(self) -> str:
        """Puts the whole file on the disk; returns its SHA-256."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise from_os_error(error, self.part) from error
        return self._digest.hexdigest()

    def publish(self) -> None:
        """Gives the file its own name and removes the journal. Call after ``sync``."""
        self._file.close()
        try:
            os.replace(self.part, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise from_os_error(error, self.path) from error
        self._journal.path.unlink(missing_ok=True)
        self._journal.close()
        self._journal.path.with_name(self._journal.path.name + ".lock").unlink(missing_ok=True)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._journal.close()

    def _name(self, tensor: TensorInfo) -> str:
        return f"{self._key} {tensor.name}"

    def _recover(self, head: bytes) -> int:
        """How many tensors of an earlier run are whole; the file is cut after them and the digest stands there."""
        if self._file.read(len(head)) != head:
            return 0
        digest, done, end = hashlib.sha256(head), 0, len(head)
        for tensor in self._tensors:
            noted = self._journal.items.get(self._name(tensor))
            if noted is None:
                break
            left = padded(tensor.size)
            while left:
                piece = self._file.read(min(left, _PIECE))
                if not piece:
                    break
                digest.update(piece)
                left -= len(piece)
            if left or digest.hexdigest() != noted.get("sha256"):
                break
            self._digest, done, end = digest.copy(), done + 1, end + padded(tensor.size)
        self._file.truncate(end)
        self._file.seek(end)
        return done
