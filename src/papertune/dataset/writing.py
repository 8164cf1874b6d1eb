"""Puts the papers' lines into ``train.jsonl`` and ``val.jsonl`` in the order of the corpus, in which they do not arrive."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any

from papertune.dataset.making import Made
from papertune.dataset.outputs import LENGTH_STEP
from papertune.dataset.scratch import Scratch


class Lines:
    """A file of examples being written to ``out``: its sum and bytes, its examples and their tokens, and how many examples have how many tokens."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out, self._digest, self._size = out, hashlib.sha256(), 0
        self.examples = self.tokens = 0
        self.lengths: Counter[int] = Counter()

    def add(self, lines: bytes, tokens: Sequence[int]) -> None:
        self._out.write(lines)
        self._digest.update(lines)
        self._size += len(lines)
        self.examples += len(tokens)
        self.tokens += sum(tokens)
        self.lengths.update(tokens)

    def figures(self) -> dict[str, Any]:
        lengths = [0] * (max(self.lengths, default=-1) // LENGTH_STEP + 1)
        for length, count in self.lengths.items():
            lengths[length // LENGTH_STEP] += count
        whole = {"examples": self.examples, "tokens": self.tokens, "lengths": lengths}
        return {"sha256": self._digest.hexdigest(), "bytes": self._size, **whole}


@dataclass(frozen=True, slots=True)
class Entry:
    """A paper in the spool: what ``Made`` says of it, where its lines stand and how many bytes they are. Its length is the number of examples."""

    name: str
    source: str
    sha256: str
    language: str
    size: int
    at: int
    bytes: int
    examples: int
    dropped: Counter[str]
    characters: Counter[str]

    def __len__(self) -> int:
        return self.examples


class Spool:
    """The papers' lines on disk, each paper's followed by the tokens of each line; in memory is only where they stand."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._entries: dict[int, Entry] = {}

    def add(self, number: int, made: Made) -> None:
        """Takes in the paper with this number in the order of the corpus, in place of what was there. Raises DiskFull or CannotWrite."""
        at = self._scratch.append(made.lines + made.tokens.tobytes())
        self._entries[number] = Entry(
            made.name, made.source, made.sha256, made.language, made.size, at, len(made.lines), len(made.tokens), made.dropped, made.characters
        )

    def papers(self) -> list[Entry]:
        """The entries in the order of the corpus."""
        return [self._entries[number] for number in sorted(self._entries)]

    def lines(self, entry: Entry) -> bytes:
        """All lines of a paper, each with its end."""
        return self._scratch.read(entry.at, entry.bytes)

    def copy(self, chosen: Iterable[tuple[Entry, list[int]]], out: Lines) -> None:
        """Adds the lines of these entries that have these places."""
        for entry, places in chosen:
            picked, tokens = self.lines(entry), self._tokens(entry)
            if len(places) < len(entry):
                lines = picked.splitlines(keepends=True)
                picked, tokens = b"".join(lines[k] for k in places), [tokens[k] for k in places]
            out.add(picked, tokens)

    def _tokens(self, entry: Entry) -> Sequence[int]:
        tokens = array("I")
        tokens.frombytes(self._scratch.read(entry.at + entry.bytes, tokens.itemsize * len(entry)))
        return tokens
