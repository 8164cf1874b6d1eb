"""A backend that does what the file tells it to: ``%misbehave: segfault`` in a PDF. Without such a line it is the fast backend.

``kill-parent`` ends papertune itself, as a power cut or the system's out-of-memory killer would.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from papertune.extract.backend import Backend, Options
from papertune.extract.backends import fast
from papertune.records import Block, Document
from tests.crashers import misbehave
from tests.hostile import PROSE, paper

MAKER = ("tests.misbehaving:open_backend", ())


class Misbehaving:
    name = "fast"

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def read(self, path: Path) -> Document:
        command = re.search(rb"%misbehave: ([\w-]+)", path.read_bytes())
        if command is not None:
            how = command[1].decode()
            if how == "kill-parent":
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(100)
            elif how == "grow":
                with path.open("ab") as file:
                    file.write(b"\n%more\n")
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


def open_recogniser(_options: Options) -> Recogniser:
    return Recogniser()
