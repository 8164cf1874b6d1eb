"""What a worker process does: one file through one backend, ending in an answer that is small enough to send."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from papertune.extract.backend import Backend, CannotRead, NeedsPassword, Options, PartlyRead, open_backend
from papertune.extract.states import State


@dataclass(frozen=True, slots=True)
class Task:
    """One file for one backend. ``maker`` is ``module:function``; ``size`` and ``mtime`` are those of the bytes that were hashed."""

    path: Path
    source: str
    sha256: str
    size: int
    mtime: int
    engine: str
    maker: str
    options: Options
    min_length: int


@dataclass(frozen=True, slots=True)
class Answer:
    """``text`` and ``sidecar`` are set in the states that are written; ``chars`` is the length of the running text. ``doubts`` names
    the backends that could do better on some pages, ``unsure`` says that one of them is at hand and should."""

    state: State
    reason: str = ""
    text: str = ""
    sidecar: str = ""
    pages: int = 0
    chars: int = 0
    doubts: tuple[str, ...] = ()
    unsure: bool = False


def read(task: Task) -> Answer:
    """The function the workers run. Whatever the backend did not foresee goes on to the supervisor as an exception, or kills the process."""
    state: State = "ok"
    reason = ""
    try:
        document = _backend(task.maker, task.options).read(task.path)
    except PartlyRead as error:
        state, reason, document = "partial", str(error), error.document
    except NeedsPassword as error:
        # pdfium says so of some broken files too. The mark stands uncompressed even where the objects are packed: ISO 32000-1, 7.5.8.
        locked = b"/Encrypt" in task.path.read_bytes()
        return Answer(error.state if locked else "damaged", str(error) if locked else "it asks for a password, but nothing in it is encrypted")
    except CannotRead as error:
        return Answer(error.state, str(error))
    except OSError:
        try:
            task.path.open("rb").close()
        except OSError as error:
            return Answer("unreadable", error.strerror or str(error))
        raise  # the file is there: the trouble is the backend's own
    try:
        status = task.path.stat()
    except OSError as error:
        return Answer("unreadable", error.strerror or str(error))
    if (status.st_size, status.st_mtime_ns) != (task.size, task.mtime):
        return Answer("changed", "it was written to while it was read; run again")
    doubts = tuple(look for look, pages in (("ocr", document.unread), ("docling", document.unsure)) if pages)
    if not task.options.looks.isdisjoint(doubts):
        reason = f"pages without readable text: {list(document.unread)}, of doubtful layout: {list(document.unsure)}"
        return Answer(state, reason, doubts=doubts, unsure=True)
    document = replace(document, source=task.source, sha256=task.sha256)
    text = document.running_text()
    chars = len(text.strip())
    if chars < task.min_length:
        what: State = "no_text" if not document.blocks else "too_short"
        reason = f"{chars} characters of running text, --min-length is {task.min_length}"
        return Answer(what, reason, pages=document.pages, chars=chars, doubts=doubts)
    return Answer(state, reason, text, document.to_json(), document.pages, chars, doubts)


@cache
def _backend(maker: str, options: Options) -> Backend:
    """Made once a process: Docling's models take seconds to load."""
    return open_backend(maker, options)
