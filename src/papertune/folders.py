"""Everything under a folder, each once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(top: Path, seen: set[tuple[int, int]], warn: Callable[[str], None], *, hidden: bool = True) -> Iterator[tuple[str, str, os.DirEntry[str]]]:
    """Whatever is no folder, by name in each folder: the folder, the same as seen from ``top`` ("" or "sub/"), and the entry.

    Links are followed, after what is no link; a folder reached twice (a loop of links) is entered once, and so is one in ``seen``, which grows.
    Folders that cannot be listed are told to ``warn``. Without ``hidden`` names that begin with a dot are left out.
    """
    pending = [(str(top), "")]  # a stack, not recursion: folders may be nested deeper than Python's
    while pending:
        folder, inside = pending.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116 - a Path a folder costs more than the call
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            warn(f"The folder {folder} was left out: {error.strerror}.")
            continue
        deeper = []
        for entry in entries:
            if not hidden and entry.name.startswith("."):
                continue
            if _is_folder(entry):
                deeper.append((entry.path, f"{inside}{entry.name}/"))
            else:
                yield folder, inside, entry
        pending.extend(reversed(deeper))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
