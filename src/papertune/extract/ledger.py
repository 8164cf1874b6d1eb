"""What earlier runs know of each file, and what this one learns, on top of ``.resume.json``.

The manifest has one item an input file. Its key is the file's path, seen from the output folder, so that both may be moved together. ``made``
tells from which bytes, with which settings and by which version of this code the item came: the file is done while that holds and its
outputs are there. ``size`` and ``mtime`` spare hashing a file that was not touched.

An item in the state ``started`` was being read, by ``engine``, when papertune ended without a word: ``ends`` counts how often. One in the
state ``waiting`` still has that engine before it. ``failures`` lists the backends that have failed on the file, with state and reason.
``text`` tells whether the text is as it was written, or a person has been at it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

from papertune.config import ExtractConfig
from papertune.extract.discover import Found, folded
from papertune.extract.engines import Engines
from papertune.extract.reading import Answer
from papertune.extract.states import PASSING, STATES, WRITTEN, State
from papertune.files import PART, as_bytes
from papertune.manifest import Item, Manifest, key_of
from papertune.records import Document

CODE_VERSION = 1
"""Raised when this room would write something else for the same file."""

ENDS = 3
"""So often papertune may end while a file is read before that file is held responsible: a kill or a power cut is no fault of the file's."""


@dataclass(slots=True)
class Job:
    """A file to be read. ``chain`` are the backends still before it, the next one first; ``scan`` are those for a file without a text layer,
    ``second`` the one for a file on which the first is unsure. ``output`` is its outputs' name without suffix, ``text`` the mark of the text that
    an earlier run wrote there."""

    file: Found
    sha256: str
    made: str
    output: str
    chain: tuple[str, ...]
    scan: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    failures: list[tuple[str, State, str]] = field(default_factory=list)
    ends: int = 0
    text: str = ""

    def look_again(self) -> None:
        """If the second look fails, the first one's word is taken."""
        self.chain, self.second = (*self.second, *self.chain), ()


def text_path(folder: Path, output: str) -> Path:
    return folder / f"{output}.txt"


def sidecar_path(folder: Path, output: str) -> Path:
    return folder / f"{output}.blocks.json"


def mark_of(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def _source_of(sidecar: Path) -> str:
    """The SHA-256 of the file that these outputs are of; "" when that cannot be told."""
    try:
        return Document.from_json(sidecar.read_text(encoding="utf-8")).sha256
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def known_hash(item: Item, file: Found) -> str:
    """The file's SHA-256 if it is as it was when last hashed, else ""."""
    same = item.get("size") == file.size and item.get("mtime") == file.mtime
    return str(item.get("sha256", "")) if same else ""


def settings_of(config: ExtractConfig, engines: Engines) -> dict[str, Any]:
    """Whatever the texts depend on beside the files themselves."""
    return {"pdf": engines.pdf, "epub": engines.epub, "second_look": config.engine == "auto", "min_length": config.min_length}


class Ledger:
    """The manifest's items as extraction means them. ``folder`` is the output folder, ``settings`` those of ``settings_of``."""

    def __init__(self, manifest: Manifest, folder: Path, settings: Mapping[str, Any]) -> None:
        """Removes what a killed run was writing: the lock on the manifest is held, so no one else writes here."""
        self._manifest = manifest
        self.folder = folder
        self._there = set(os.listdir(folder))  # noqa: PTH208 - a Path a file costs more than the call
        for name in [name for name in self._there if name.endswith((f".txt{PART}", f".blocks.json{PART}"))]:
            (folder / name).unlink(missing_ok=True)
        self._settings = key_of("", settings, CODE_VERSION)
        self._prefix = cache(self._seen_from_output)

    def item(self, file: Found) -> Item:
        """What is known of the file, perhaps nothing."""
        return self._manifest.items.get(self._key(file), {})

    def owners(self) -> dict[str, str]:
        """Of each name in use for outputs, folded, the SHA-256 of the file that was read into them; "" for a text that papertune has not written:
        no item speaks of it and no sidecar lies beside it."""
        owners: dict[str, str] = {}
        for item in self._manifest.items.values():
            name, sha256 = item.get("output"), item["sha256"]
            if name and owners.setdefault(folded(name), sha256) != sha256:  # one overwrote the other, as earlier versions did
                owners[folded(name)] = _source_of(sidecar_path(self.folder, name))
        for name in self._there:
            if name.endswith(".txt") and f"{name[:-4]}.blocks.json" not in self._there:
                owners.setdefault(folded(name[:-4]), "")
        return owners

    def kept(self, items: Iterable[Item]) -> list[str]:
        """Names of texts from before this run that are of none of these items: they stay, and step 2 uses them."""
        here = {f"{item['output']}.txt" for item in items if item.get("state") in WRITTEN}
        earlier = (name for name in self._there - here if name.endswith(".txt") and f"{name[:-4]}.blocks.json" in self._there)
        return sorted(name for name in earlier if (self.folder / name).is_file())

    def edited(self, job: Job) -> bool:
        """Whether the text that an earlier run wrote for this file has been changed since."""
        path = text_path(self.folder, job.output)
        return bool(job.text) and path.is_file() and mark_of(path.read_bytes()) != job.text

    def made(self, sha256: str) -> str:
        """From which bytes, with which settings and by which version of this code."""
        return f"{sha256}-{self._settings}"

    def ended_as(self, item: Item, made: str, output: str) -> State | None:
        """The state that a file with this item is known to end in; None when it must be read. Outputs are looked for as they were when the
        run began."""
        state = item.get("state")
        if state not in STATES or state in PASSING or item["made"] != made:
            return None
        if state in WRITTEN and not (item["output"] == output and f"{output}.txt" in self._there and f"{output}.blocks.json" in self._there):
            return None
        return cast(State, state)

    def resume(self, job: Job) -> None:
        """Takes up what an earlier run learnt about the file before it ended."""
        item = self.item(job.file)
        if item.get("made") != job.made or item.get("state") not in ("started", "waiting"):
            return
        job.failures = [(engine, state, reason) for engine, state, reason in item["failures"]]
        job.ends = item["ends"]
        if any(failure[0] in job.second for failure in job.failures):
            job.second = ()
        if item["engine"] in job.second:
            job.look_again()
        elif item["engine"] in job.chain:
            job.chain = job.chain[job.chain.index(item["engine"]) :]
        elif item["engine"] in job.scan:
            job.chain, job.scan = job.scan, ()
        if item["state"] == "started":
            job.ends += 1
        if job.ends >= ENDS:
            job.failures.append((job.chain[0], "crash", f"papertune ended {job.ends} times while reading it"))
            job.chain, job.ends = job.chain[1:][-1:], 0

    def started(self, job: Job) -> None:
        self._record_open(job, "started")

    def waiting(self, job: Job) -> None:
        self._record_open(job, "waiting")

    def ended(self, job: Job, answer: Answer, engine: str, *, limits: tuple[float, int]) -> None:
        """Written after the outputs are safely on disk. ``limits`` are seconds and MiB."""
        found = {"pages": answer.pages, "chars": answer.chars, **({"doubts": answer.doubts} if answer.doubts else {})}
        if answer.state in WRITTEN:
            found["text"] = mark_of(as_bytes(answer.text))
        self._record(job, answer.state, answer.reason, engine=engine, **found, failures=job.failures, limits=limits, output=job.output)

    def ended_unread(self, file: Found, state: State, reason: str, sha256: str) -> None:
        """For a file that no backend sees: unreadable, a duplicate, not what its name says. The record is spared when it stands already."""
        fields = {"made": self.made(sha256), "sha256": sha256, "size": file.size, "mtime": file.mtime, "state": state, "reason": reason}
        if self.item(file) != {"key": self._key(file), **fields}:
            self._manifest.record(self._key(file), **fields)

    def _record_open(self, job: Job, state: str) -> None:
        self._record(job, state, "", engine=job.chain[0], ends=job.ends, failures=job.failures, output=job.output, text=job.text)

    def _record(self, job: Job, state: str, reason: str, **more: Any) -> None:
        file = job.file
        self._manifest.record(self._key(file), made=job.made, sha256=job.sha256, size=file.size, mtime=file.mtime, state=state, reason=reason, **more)

    def _key(self, file: Found) -> str:
        return self._prefix(file.folder) + file.name

    def _seen_from_output(self, folder: str) -> str:
        try:
            return Path(os.path.relpath(folder, self.folder)).as_posix() + "/"
        except ValueError:  # another drive
            return Path(folder).as_posix() + "/"
