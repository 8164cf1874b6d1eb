"""The folder of the analyses: no paper's page is written over by another's, and a page that a person has edited is kept.

The journal has an item a page: of which paper it is (the SHA-256 of the paper's file) and the hash of what was written there.
"""

from __future__ import annotations

import hashlib
from itertools import count
from pathlib import Path

from papertune.events import Notice, OnEvent
from papertune.extract.discover import folded
from papertune.files import as_bytes, put_aside, sha256_of, write_text
from papertune.manifest import Manifest

THEMES = "themes"  # stands for the paper of the page that is about all of them; no paper gets its name
_ITEM = "page "  # what keys of such items begin with


class Shelf:
    def __init__(self, folder: Path, journal: Manifest, on_event: OnEvent) -> None:
        self._folder, self._journal, self._on_event = folder, journal, on_event

    def put(self, stem: str, paper: str, source: str, text: str) -> Path:
        """The page of this paper under ``stem``.md, or with a number behind it where that is another's. Raises DiskFull or CannotWrite."""
        name = self._name(stem, paper, source, text)
        path, key, new = self._folder / name, _ITEM + name, _hash(text)
        written = self._journal.items.get(key, {}).get("sha256")
        there = sha256_of(path) if path.is_file() else None
        if there not in (None, written, new):
            if written == new:
                self._on_event(Notice(f"{name} has been edited and stays as it is."))
                return path
            aside = put_aside(path)
            self._on_event(Notice(f"{name} had been edited and is written anew; what it was is now {aside.name}.", "warning"))
        if there != new:
            write_text(path, text)
        if written != new:
            self._journal.record(key, source=source, paper=paper, sha256=new)
        return path

    def _name(self, stem: str, paper: str, source: str, text: str) -> str:
        owners = {key.removeprefix(_ITEM): item["paper"] for key, item in self._journal.items.items() if key.startswith(_ITEM)}
        if own := next((name for name, owner in owners.items() if owner == paper), ""):
            return own
        taken = {folded(name) for name in owners} | ({folded(f"{THEMES}.md")} if paper != THEMES else set())
        names = (f"{stem}.md" if number == 1 else f"{stem}-{number}.md" for number in count(1))
        name = next(name for name in names if folded(name) not in taken and self._free(self._folder / name, text))
        if name != f"{stem}.md":
            self._on_event(Notice(f"{stem}.md is another's; the analysis of {source} is {name}."))
        return name

    def _free(self, path: Path, text: str) -> bool:
        """Whether nothing is there but what would be written."""
        return not path.exists() or (path.is_file() and sha256_of(path) == _hash(text))


def _hash(text: str) -> str:
    return hashlib.sha256(as_bytes(text)).hexdigest()
