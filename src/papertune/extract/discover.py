"""Which files there are to read, and what their outputs are called. Both depend on the folders alone, not on the order of work."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from papertune.errors import FolderMissing, FolderUnreadable

SUFFIXES = (".pdf", ".epub")
_LONGEST = 200  # bytes of a name without suffix, so that NAME.blocks.json.part stays under the 255 of most file systems
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)  # reserved on Windows, whatever follows the dot


@dataclass(frozen=True, slots=True)
class Found:
    """An input file. ``path`` is absolute. ``source`` names it from its input folder, with ``/``, the same on every machine.

    ``problem`` says why it cannot be read at all (a named pipe, no such target); then ``size`` and ``mtime`` (nanoseconds) are 0.
    """

    path: Path
    source: str
    size: int = 0
    mtime: int = 0
    problem: str = ""

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()


def discover(folders: Iterable[Path], warn: Callable[[str], None]) -> list[Found]:
    """All PDF and EPUB files under the folders, in the folders' order and by name inside each.

    Links are followed; a folder reached twice (a loop of links, a folder named twice) is read once. Subfolders that cannot be listed are
    told to ``warn``. Raises FolderMissing or FolderUnreadable for one of ``folders`` itself.
    """
    seen: set[tuple[int, int]] = set()
    found: list[Found] = []
    for given in folders:
        folder = given.absolute()
        if not folder.exists():
            raise FolderMissing(f"The folder {given} does not exist.", "Name the folders with your PDF and EPUB files: --input-dir FOLDER ….")
        if not folder.is_dir():
            raise FolderMissing(f"{given} is not a folder.", "Name the folder that holds the file, with --input-dir.")
        try:
            os.scandir(folder).close()
        except OSError as error:
            raise FolderUnreadable(f"The folder {given} cannot be listed: {error.strerror}.", "Give yourself permission to read it.") from error
        found.extend(_walk(folder, seen, warn))
    return found


def _walk(top: Path, seen: set[tuple[int, int]], warn: Callable[[str], None]) -> Iterator[Found]:
    pending = [(top, "")]  # a stack, not recursion: folders may be nested deeper than Python's
    while pending:
        folder, inside = pending.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            warn(f"The folder {folder} was left out: {error.strerror}.")
            continue
        deeper = []
        for entry in entries:
            source = f"{inside}{entry.name}"
            if _is_folder(entry):
                deeper.append((folder / entry.name, source + "/"))
            elif entry.name.lower().endswith(SUFFIXES):
                yield _file(folder / entry.name, source)
        pending.extend(reversed(deeper))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _file(path: Path, source: str) -> Found:
    try:
        status = path.stat()
    except OSError as error:
        return Found(path, source, problem=error.strerror or str(error))
    if not stat.S_ISREG(status.st_mode):
        return Found(path, source, problem="not a regular file")
    return Found(path, source, status.st_size, status.st_mtime_ns)


def name_outputs(files: Iterable[Found], earlier: Mapping[Path, str]) -> dict[Path, str]:
    """A name without suffix for each file's outputs, no two alike on any file system.

    A file keeps the name that an earlier run gave it (``earlier``: path → name). Of several that want the same, a PDF goes before an EPUB,
    then the first; the others get a mark made from their path, so that it stays theirs.
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    wanting = []
    for file in files:
        kept = earlier.get(file.path)
        if kept is not None and _folded(kept) not in taken:
            names[file.path] = kept
            taken.add(_folded(kept))
        else:
            wanting.append(file)
    for file in sorted(wanting, key=lambda file: file.suffix != ".pdf"):
        name = plain = _portable(file.path.stem)
        attempt = 0
        while _folded(name) in taken:
            name = f"{plain}-{_mark(file.source, attempt)}"
            attempt += 1
        names[file.path] = name
        taken.add(_folded(name))
    return names


def _folded(name: str) -> str:
    """Two names with the same folding may be one file: case and Unicode form do not count everywhere."""
    return unicodedata.normalize("NFC", name.casefold())


def _mark(source: str, attempt: int) -> str:
    return hashlib.sha256(f"{source}\0{attempt}".encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _portable(stem: str) -> str:
    """The name, changed only where some system, shell or archive would stumble over it."""
    safe = "".join("_" if char in '<>:"/\\|?*' or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in stem)
    safe = safe.rstrip(". ")
    if safe[:1] in ("-", ".", "~", " ") or _DEVICES.fullmatch(safe) or not safe:
        safe = "_" + safe
    encoded = safe.encode()
    if len(encoded) > _LONGEST:
        safe = encoded[: _LONGEST - 9].decode(errors="ignore") + "-" + hashlib.sha256(encoded).hexdigest()[:8]
    return safe
