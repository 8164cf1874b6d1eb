"""General text mixed into the training papers, so that the model does not forget how to write about everything else: ``--replay``.

A ``.txt`` holds documents parted by lines of U+001E (or one document), a ``.jsonl`` one a line as ``{"text": …}``. They are drawn in an order that
the seed decides, long ones in passages, until the share of tokens is reached. The file is never held in memory.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from papertune.dataset.chunks import cut
from papertune.dataset.duplicates import RELATED
from papertune.dataset.fingerprints import Hashes, letters, sample
from papertune.dataset.flow import CLOSING, flow_of
from papertune.dataset.openings import ENDS, Shape
from papertune.dataset.read import parse
from papertune.dataset.tokens import TokenCounter
from papertune.errors import BadDataset
from papertune.files import sha256_of
from papertune.records import Example

_LONG = 1 << 16  # bytes from which a document is cut at the next blank line
_SEPARATOR = b"\x1e"
_REMEDY = "Name a text file whose documents are parted by lines of U+001E, or a .jsonl with a text in each line."


@dataclass(frozen=True, slots=True)
class _Passage:
    """Bytes ``start`` to ``end`` of the file; ``whole`` where a document ends with them."""

    start: int
    end: int
    whole: bool


class Replay:
    """Examples of the general text in ``path``. ``held_out`` are sampled shingles of the validation papers: passages that share a tenth of their own
    with them are left out, and counted in ``left_out``.

    Raises BadDataset when the file cannot be read or holds no text.
    """

    def __init__(self, path: Path, shape: Shape, count: TokenCounter, seed: int, held_out: Hashes) -> None:
        self.path, self._shape, self._count, self._held_out = path, shape, count, held_out
        self._lines = path.suffix.lower() == ".jsonl"
        try:
            self.sha256 = sha256_of(path)
            self._passages = list(self._find())
        except OSError as error:
            raise BadDataset(f"--replay {path} cannot be read: {error.strerror}.", _REMEDY) from error
        if not self._passages:
            raise BadDataset(f"--replay {path} holds no text.", _REMEDY)
        random.Random(f"papertune replay {seed}").shuffle(self._passages)
        self.left_out = 0

    def examples(self) -> Iterator[tuple[Example, int]]:
        """Each with its tokens including begin and end token, in the order in which they are drawn."""
        number = 0
        with self.path.open("rb") as file:
            for passage in self._passages:
                file.seek(passage.start)
                text = self._text(file.read(passage.end - passage.start), passage.start)
                if self._is_held_out(text):
                    self.left_out += 1
                    continue
                for piece, tokens, last in self._cut(text):
                    end = last and passage.whole and piece[-1] in CLOSING
                    yield Example(f"replay#{number:06d}", "", piece, "", end, self.path.name, self.sha256), tokens
                    number += 1

    def _find(self) -> Iterator[_Passage]:
        """The passages in the order of the file, read line by line."""
        start = end = 0
        with self.path.open("rb") as file:
            for line in file:
                before, end = end, end + len(line)
                words = line.strip()
                if self._lines:
                    if words:
                        yield _Passage(before, end, True)
                elif words == _SEPARATOR:
                    if before > start:
                        yield _Passage(start, before, True)
                    start = end
                elif not words and before - start >= _LONG:
                    yield _Passage(start, before, False)
                    start = end
        if not self._lines and end > start:
            yield _Passage(start, end, True)

    def _text(self, raw: bytes, place: int) -> str:
        text = raw.decode("utf-8-sig", "replace")
        if not self._lines:
            return text.replace("\r\n", "\n")
        try:
            return str(json.loads(text)["text"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadDataset(f'--replay {self.path}: the line at byte {place:,} is not a JSON object with a "text".', _REMEDY) from error

    def _is_held_out(self, text: str) -> bool:
        own = sample(letters(text))
        shared = int(np.isin(own, self._held_out, assume_unique=True).sum())
        return shared > 1 and shared >= RELATED * len(own)

    def _cut(self, text: str) -> Iterator[tuple[str, int, bool]]:
        """The text in pieces that fit, with their tokens, and whether it is the last."""
        most = self._shape.max_tokens - ENDS
        flow = flow_of(parse(text)[1], self._count, self._shape.size, most)
        for chunk in cut(flow, overlap=0, room=lambda _section, _inside: (self._shape.size, most)):
            piece = flow.text[flow.starts[chunk.first] : flow.ends[chunk.last - 1]]
            yield piece, chunk.tokens + ENDS, chunk.last == len(flow)
