"""Which files there are to read, and what their outputs are called. Both depend on the folders alone, not on the order of work."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from papertune.errors import FolderMissing, FolderUnreadable
from papertune.folders import walk

SUFFIXES = (".pdf", ".epub")
_LONGEST = 200  # bytes of a name without suffix
_BESIDE = len("-12345678.txt.edited-12345678")  # the most that is put behind it
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)  # reserved on Windows, whatever follows the dot


@dataclass(frozen=True, slots=True)
class Found:
    """An input file. ``folder`` is absolute; ``inside`` is that folder as seen from the input folder, with ``/``: "" or "sub/".

    ``problem`` says why it cannot be read at all (a named pipe, no such target); then ``size`` and ``mtime`` (nanoseconds) are 0.
    """

    folder: str
    inside: str
    name: str
    size: int = 0
    mtime: int = 0
    problem: str = ""

    @property
    def path(self) -> Path:
        return Path(self.folder, self.name)

    @property
    def source(self) -> str:
        """The file as seen from its input folder, the same on every machine."""
        return self.inside + self.name

    @property
    def is_pdf(self) -> bool:
        """By its name; what it holds is another matter."""
        return self.name.lower().endswith(".pdf")


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
        found += [_file(entry, *place) for *place, entry in walk(folder, seen, warn) if entry.name.lower().endswith(SUFFIXES)]
    return found


def _file(entry: os.DirEntry[str], folder: str, inside: str) -> Found:
    try:
        status = entry.stat()
    except OSError as error:
        return Found(folder, inside, entry.name, problem=error.strerror or str(error))
    if not stat.S_ISREG(status.st_mode):
        return Found(folder, inside, entry.name, problem="not a regular file")
    return Found(folder, inside, entry.name, status.st_size, status.st_mtime_ns)


def longest_name(folder: Path) -> int:
    """Bytes that a name without suffix may have in this folder: of most file systems' 255, of an encrypted one's 143, of Windows' 260 for a path."""
    limit = 259 - len(str(folder.absolute())) if os.name == "nt" else os.pathconf(folder, "PC_NAME_MAX")
    return max(_BESIDE, min(_LONGEST, limit - _BESIDE))


def name_outputs(
    files: Sequence[Found], hashes: Sequence[str], earlier: Iterable[tuple[str, str]], owners: Mapping[str, str], longest: int = _LONGEST
) -> list[str]:
    """A name without suffix for each file's outputs, no two alike on any file system.

    ``hashes`` are the files' own. ``earlier`` has for each file the name that an earlier run gave it and the hash it had then, or twice "": the
    name is kept. ``owners`` says of the names in use, folded, from which bytes their text is, "" of one that a person has written; only the same
    bytes, moved to another place, may have them. Of several files that want the same name, a PDF goes before an EPUB, then the first; the others
    get a mark made from their path, so that it stays theirs.
    """
    names = [""] * len(files)
    taken: set[str] = set()
    wanting = []
    for index, (kept, had) in enumerate(earlier):
        key = folded(kept)
        if kept and key not in taken and owners.get(key) == had:
            names[index] = kept
            taken.add(key)
        else:
            wanting.append(index)
    for index in sorted(wanting, key=lambda index: not files[index].is_pdf):
        name = plain = _portable(files[index].name.rpartition(".")[0], longest)
        attempt = 0
        while folded(name) in taken or owners.get(folded(name), hashes[index]) != hashes[index]:
            name = f"{plain}-{_mark(files[index].source, attempt)}"
            attempt += 1
        names[index] = name
        taken.add(folded(name))
    return names


def folded(name: str) -> str:
    """Two names with the same folding may be one file: case and Unicode form do not count everywhere."""
    if name.isascii():  # most are, and many are their own folding
        return name if name.islower() else name.lower()
    return unicodedata.normalize("NFC", name.casefold())


def _mark(source: str, attempt: int) -> str:
    return hashlib.sha256(f"{source}\0{attempt}".encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _portable(stem: str, longest: int) -> str:
    """The name, changed only where some system, shell or archive would stumble over it."""
    safe = "".join("_" if char in '<>:"/\\|?*' or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in stem)
    safe = safe.rstrip(". ")
    if safe[:1] in ("-", ".", "~", " ") or _DEVICES.fullmatch(safe) or not safe:
        safe = "_" + safe
    encoded = safe.encode()
    if len(encoded) > longest:
        safe = encoded[: longest - 9].decode(errors="ignore") + "-" + hashlib.sha256(encoded).hexdigest()[:8]
    return safe
