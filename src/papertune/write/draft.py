"""The file of an article in the making.

Before each piece goes into the file, the journal gets the hash that the file will have with it. So what papertune has written, whole or broken
off, is told from what a person has made of it, and that is never written over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from papertune.errors import from_os_error
from papertune.events import Notice, OnEvent
from papertune.files import as_bytes, put_aside, sha256_of, write_text
from papertune.manifest import Manifest

_KEY = "draft"


class Draft:
    """The article's file. ``put`` works within ``appending``."""

    def __init__(self, path: Path, journal: Manifest, on_event: OnEvent) -> None:
        self._path, self._journal, self._on_event = path, journal, on_event

    def write(self, text: str) -> None:
        """The file anew with this text. Raises DiskFull or CannotWrite."""
        self._keep_edits()
        self._expect(as_bytes(text), hashlib.sha256())
        write_text(self._path, text)

    @contextmanager
    def appending(self) -> Iterator[None]:
        """Raises DiskFull or CannotWrite for what ``put`` meets."""
        try:
            with self._path.open("ab") as self._file:
                yield
        except OSError as error:
            raise from_os_error(error, self._path) from error

    def put(self, text: str) -> None:
        """Text to the end of the file, at once visible to whoever reads it."""
        self._expect(as_bytes(text), self._digest)
        self._file.write(as_bytes(text))
        self._file.flush()

    def _expect(self, piece: bytes, before: hashlib._Hash) -> None:
        self._digest = before.copy()
        self._digest.update(piece)
        last = self._journal.items.get(_KEY, {}).get("sha256", "")
        self._journal.record(_KEY, sha256=self._digest.hexdigest(), before=last)

    def _keep_edits(self) -> None:
        written = self._journal.items.get(_KEY, {})
        if self._path.exists() and sha256_of(self._path) not in (written.get("sha256"), written.get("before")):
            aside = put_aside(self._path)
            told = f"{self._path.name} is not as papertune left it. It is kept as {aside.name}, and the article is written anew."
            self._on_event(Notice(told, "warning"))
