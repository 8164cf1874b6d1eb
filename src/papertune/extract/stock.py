"""Looking at every input before any is read: what each holds, which are the same, which are done already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from papertune.device import cores
from papertune.extract.discover import Found, longest_name, name_outputs
from papertune.extract.engines import Engines
from papertune.extract.ledger import Job, Ledger, known_hash
from papertune.extract.states import State, Tally
from papertune.files import sha256_of
from papertune.manifest import Item

SIZE_LIMIT = 2 << 30
"""Bytes; the largest PDF a library here has been seen to open is far below."""

_HEAD = 1024  # bytes in which a PDF must name itself, ISO 32000-1 annex H.3.4.1
_EPUB = b"mimetypeapplication/epub+zip"  # the first entry of an EPUB, at byte 30: OCF 3.3, 4.2.3


@dataclass(slots=True)
class Stock:
    """``jobs`` are to be read; ``tally`` has the other files by how they ended, now or in an earlier run."""

    jobs: list[Job] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


def take_stock(files: Sequence[Found], ledger: Ledger, engines: Engines, again: Callable[[Item], bool], log: logging.Logger) -> Stock:
    """Sorts the files into those to read and those whose end is known; ``again`` says which of the latter to read all the same."""
    stock = Stock()
    readable: list[tuple[Found, Item, str]] = []
    first: dict[str, Found] = {}

    def end(file: Found, state: State, reason: str, sha256: str = "") -> None:
        ledger.ended_unread(file, state, reason, sha256)
        stock.tally.add(state, file.source)
        log.info("%s: %s: %s", file.path, state, reason)

    items = [ledger.item(file) for file in files]
    for file, item, (sha256, problem) in zip(files, items, _hashes(files, items), strict=True):
        if problem:
            end(file, "unreadable", problem)
        elif not sha256:
            end(file, "limit_size", f"{file.size >> 20} MiB, the limit is {SIZE_LIMIT >> 20}")
        elif sha256 in first:
            end(file, "duplicate", f"the same bytes as {first[sha256].path}", sha256)
        else:
            first[sha256] = file
            readable.append((file, item, sha256))
    earlier = ((item["output"], item["sha256"]) if "output" in item else ("", "") for _, item, _ in readable)
    hashes = [sha256 for _, _, sha256 in readable]
    outputs = name_outputs([file for file, _, _ in readable], hashes, earlier, ledger.owners(), longest_name(ledger.folder))
    for (file, item, sha256), output in zip(readable, outputs, strict=True):
        made = ledger.made(sha256)
        known = ledger.ended_as(item, made, output)
        if known is not None and not again(item):
            stock.tally.add(known, file.source)
            continue
        kind, problem = _kind(file)
        if problem:
            end(file, "unreadable", problem)
        elif not kind:
            named = "a PDF" if file.is_pdf else "an EPUB"
            end(file, "not_pdf" if file.is_pdf else "not_epub", "empty" if file.size == 0 else f"it does not begin like {named}", sha256)
        else:
            chains = (engines.epub,) if kind == "epub" else (engines.pdf, engines.scan, engines.second)
            job = Job(file, sha256, made, output, *chains)
            job.text = str(item.get("text", ""))
            ledger.resume(job)
            stock.jobs.append(job)
    return stock


def _hashes(files: Sequence[Found], items: Sequence[Item]) -> Iterator[tuple[str, str]]:
    """For each file its SHA-256, or "" and the reason why there is none. Hashing lets go of the interpreter, so threads help."""

    def sha256(file: Found) -> tuple[str, str]:
        if file.problem or file.size > SIZE_LIMIT:
            return "", file.problem
        try:
            return sha256_of(file.path), ""
        except OSError as error:
            return "", error.strerror or str(error)

    known = [known_hash(item, file) for file, item in zip(files, items, strict=True)]
    with ThreadPoolExecutor(cores()) as pool:
        fresh = pool.map(sha256, [file for file, hash_ in zip(files, known, strict=True) if not hash_])
        for hash_ in known:
            yield (hash_, "") if hash_ else next(fresh)


def _kind(file: Found) -> tuple[str, str]:
    """("pdf" or "epub" or "", why it could not be opened). What a file holds counts, not its suffix."""
    try:
        with file.path.open("rb") as handle:
            head = handle.read(_HEAD)
    except OSError as error:
        return "", error.strerror or str(error)
    if b"%PDF-" in head:
        return "pdf", ""
    if head[30:].startswith(_EPUB) or (not file.is_pdf and head.startswith(b"PK")):
        return "epub", ""
    return "", ""
