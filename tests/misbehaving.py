"""A backend that does what the file tells it to: ``%misbehave: segfault`` in a PDF. Without such a line it is the fast backend.

``kill-parent`` ends papertune itself, as a power cut or the system's out-of-memory killer would.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Collection
from pathlib import Path

from papertune.extract.backend import Backend, Options
from papertune.extract.backends import fast
from papertune.extract.backends.second_look import SecondLook
from papertune.extract.layout.lines import Page, Span
from papertune.records import Block, Document, Place
from tests.crashers import misbehave
from tests.hostile import PROSE, paper

MAKER = ("tests.misbehaving:open_backend", ())
NO_BACKEND = ("tests.misbehaving:there_is_none", ())
"""Its libraries are there, but it fails on every file."""


class Misbehaving:
    name = "fast"

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def read(self, path: Path) -> Document:
        command = re.search(rb"%misbehave: ([\w-]+)", path.read_bytes())
        if command is not None:
            how = command[1].decode()
            if how == "kill-parent":
                parent = multiprocessing.parent_process()
                assert parent is not None
                assert parent.pid is not None
                os.kill(parent.pid, signal.SIGKILL)
                time.sleep(100)
            elif how == "grow":
                with path.open("ab") as file:
                    file.write(b"\n%more\n")
            elif how == "vanish":
                path.unlink()
            else:
                misbehave(how)
        return self._inner.read(path)


def open_backend(options: Options) -> Misbehaving:
    return Misbehaving(fast.open_backend(options))


def bad_paper(how: str, seed: int) -> bytes:
    """A good paper for every backend but this one."""
    return paper(seed) + b"%misbehave: " + how.encode() + b"\n"


class Recogniser:
    """Stands in for text recognition, whose library is optional: finds the same text in every scan."""

    name = "ocr"

    def read(self, path: Path) -> Document:
        del path
        return Document("", "", self.name, 1, (Block("paragraph", PROSE),))

    def pages(self, path: Path, numbers: Collection[int]) -> list[Page]:
        del path
        words = [f"Recognised on page {number}." for number in numbers]
        return [Page(number, 612, 792, [Span(word, 72, 300, 100, 12, space=True)]) for number, word in zip(numbers, words, strict=True)]


class SeenByDocling:
    """Stands in for Docling, whose weights tests have not."""

    def read_pages(self, path: Path, first: int, last: int) -> tuple[Block, ...]:
        if b"%misbehave: segfault" in path.read_bytes():
            misbehave("segfault")
        return tuple(Block("paragraph", f"Seen by Docling on page {page}.", (Place(page),)) for page in range(first, last + 1))


def open_second_look(options: Options) -> SecondLook:
    look = SecondLook(options)
    look.__dict__.update(_docling=SeenByDocling(), _ocr=Recogniser())
    return look


def open_recogniser(_options: Options) -> Recogniser:
    return Recogniser()
