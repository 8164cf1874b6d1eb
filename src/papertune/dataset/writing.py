"""Puts the papers' lines into ``train.jsonl`` and ``val.jsonl`` in the order of the corpus, in which they do not arrive."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from papertune.dataset.fingerprints import Hashes
from papertune.dataset.making import Made
from papertune.dataset.outputs import LENGTH_STEP
from papertune.errors import from_os_error


class Lines:
    """A file of examples being written to ``out``: its sum, its bytes, and the tokens of each line."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self._digest, self._size = out, hashlib.sha256(), 0
        self.tokens = array("L")

    def add(self, lines: bytes, tokens: Iterable[int]) -> None:
        self._out.write(lines)
        self._digest.update(lines)
        self._size += len(lines)
        self.tokens.extend(tokens)

    def figures(self) -> dict[str, Any]:
        lengths = [0] * (max(self.tokens, default=-1) // LENGTH_STEP + 1)
        for count in self.tokens:
            lengths[count // LENGTH_STEP] += 1
        whole = {"examples": len(self.tokens), "tokens": sum(self.tokens), "lengths": lengths}
        return {"sha256": self._digest.hexdigest(), "bytes": self._size, **whole}


@dataclass(frozen=True, slots=True)
class Entry:
    """A paper in the spool: what ``Made`` says of it, and where its lines begin, how long each is and how many tokens it has."""

    name: str
    source: str
    sha256: str
    language: str
    size: int
    at: int
    lengths: array[int]
    tokens: array[int]
    sample: Hashes
    paragraphs: Hashes
    letters: NDArray[np.uint32]
    dropped: Counter[str]
    characters: Counter[str]

    def __len__(self) -> int:
        """How many examples it has."""
        return len(self.lengths)


class Spool:
    """Lines on disk in a nameless file of ``folder``, which the system removes however the process ends. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="spool-")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise from_os_error(error, folder) from error
        self._end = 0
        self._entries: dict[int, Entry] = {}

    def add(self, number: int, made: Made) -> None:
        """Takes in the paper with this number in the order of the corpus, in place of what was there. Raises DiskFull or CannotWrite."""
        self._entries[number] = Entry(
            made.name, made.source, made.sha256, made.language, made.size, self._end, made.lengths, made.tokens,
            made.sample, made.paragraphs, made.letters, made.dropped, made.characters,
        )  # fmt: skip
        try:
            self._file.seek(self._end)
            self._file.write(made.lines)
        except OSError as error:
            raise from_os_error(error, self._folder) from error
        self._end += len(made.lines)

    def papers(self) -> list[Entry]:
        """The entries in the order of the corpus."""
        return [self._entries[number] for number in sorted(self._entries)]

    def lines(self, entry: Entry) -> bytes:
        """All lines of a paper, each with its end."""
        self._file.seek(entry.at)
        return self._file.read(sum(entry.lengths))

    def copy(self, chosen: Iterable[tuple[Entry, list[int]]], out: Lines) -> None:
        """Adds the lines of these entries that have these places."""
        for entry, places in chosen:
            picked = self.lines(entry)
            if len(places) < len(entry):
                lines = picked.splitlines(keepends=True)
                picked = b"".join(lines[k] for k in places)
            out.add(picked, (entry.tokens[k] for k in places))

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
