"""Looking at every input before any is read: what each holds, which are the same, which are done already."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from papertune.device import cores
from papertune.extract.discover import Found, name_outputs
from papertune.extract.engines import Engines
from papertune.extract.ledger import CODE_VERSION, Job, Ledger
from papertune.extract.states import State
from papertune.files import sha256_of
from papertune.manifest import key_of

SIZE_LIMIT = 2 << 30
"""Bytes; the largest PDF a library here has been seen to open is far below."""

_HEAD = 1024  # bytes in which a PDF must name itself, ISO 32000-1 annex H.3.4.1
_EPUB = b"mimetypeapplication/epub+zip"  # the first entry of an EPUB, at byte 30: OCF 3.3, 4.2.3


@dataclass(slots=True)
class Stock:
    """``jobs`` are to be read; ``states`` counts the other files by how they ended, now or in an earlier run."""

    jobs: list[Job] = field(default_factory=list)
    states: Counter[State] = field(default_factory=Counter)


def take_stock(files: Iterable[Found], ledger: Ledger, engines: Engines, min_length: int, log: logging.Logger) -> Stock:
    """Sorts the files into those to read and those whose end is known."""
    stock = Stock()
    readable: list[tuple[Found, str]] = []
    first: dict[str, Found] = {}

    def end(file: Found, state: State, reason: str, **more: str) -> None:
        ledger.ended_unread(file, state, reason, **more)
        stock.states[state] += 1
        log.info("%s: %s: %s", file.path, state, reason)

    for file, sha256, problem in _hashed(files, ledger):
        if problem:
            end(file, "unreadable", problem)
        elif file.size > SIZE_LIMIT:
            end(file, "limit_size", f"{file.size >> 20} MiB, the limit is {SIZE_LIMIT >> 20}")
        elif sha256 in first:
            end(file, "duplicate", f"the same bytes as {first[sha256].path}", sha256=sha256)
        else:
            first[sha256] = file
            readable.append((file, sha256))
    names = name_outputs([file for file, _ in readable], ledger.names(file for file, _ in readable))
    for file, sha256 in readable:
        chains = {"pdf": engines.pdf, "epub": engines.epub, "min_length": min_length}
        made, output = key_of(sha256, chains, CODE_VERSION), names[file.path]
        known = ledger.ended_as(file, made, output)
        if known is not None:
            stock.states[known] += 1
            continue
        kind, problem = _kind(file)
        if kind == "":
            state: State = "unreadable" if problem else "not_pdf" if file.suffix == ".pdf" else "not_epub"
            end(file, state, problem or ("empty" if file.size == 0 else f"it does not begin like {'a PDF' if file.suffix == '.pdf' else 'an EPUB'}"))
            continue
        job = Job(file, sha256, made, output, engines.epub if kind == "epub" else engines.pdf)
        ledger.resume(job)
        stock.jobs.append(job)
    return stock


def _hashed(files: Iterable[Found], ledger: Ledger) -> Iterable[tuple[Found, str, str]]:
    """Each file with its SHA-256, or with the reason why there is none. Hashing lets go of the interpreter, so threads help."""

    def sha256(file: Found) -> tuple[Found, str, str]:
        if file.problem or file.size > SIZE_LIMIT:
            return file, "", file.problem
        try:
            return file, ledger.known_hash(file) or sha256_of(file.path), ""
        except OSError as error:
            return file, "", error.strerror or str(error)

    with ThreadPoolExecutor(cores()) as pool:
        yield from pool.map(sha256, files)


def _kind(file: Found) -> tuple[str, str]:
    """("pdf" or "epub" or "", why it could not be opened). What a file holds counts, not its suffix."""
    try:
        with file.path.open("rb") as handle:
            head = handle.read(_HEAD)
    except OSError as error:
        return "", error.strerror or str(error)
    if b"%PDF-" in head:
        return "pdf", ""
    if head[30:].startswith(_EPUB) or (file.suffix == ".epub" and head.startswith(b"PK")):
        return "epub", ""
    return "", ""


