"""Keeps the pages of a mapped file from piling up in this process while llama.cpp reads it.

llama.cpp maps a GGUF and reads all its weights for every batch of tokens, so the whole file counts as this process's memory: four gigabytes for a
7B model. The pages are the system's copies of the file and lie in its cache whether they are mapped here or not. So a thread looks how many
there are and takes them out of the mapping when they are too many; one that is read again comes back from the cache (``docs/experiments.md`` has
what that costs). Only on Linux, which alone says in ``/proc`` what is mapped; elsewhere nothing happens and the pages stay.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_MOST = 128 << 20  # bytes of files mapped beyond those at the start before pages are let go
_PAUSE = 0.005  # seconds between looks: llama.cpp reads no more than some tens of megabytes meanwhile
_DONTNEED = 4  # MADV_DONTNEED


class FewPages:
    """From ``start`` to ``stop`` few pages of the bytes ``begin`` to ``end`` of this file are resident.

    What is let go must be a read-only shared mapping all the while: of that madvise(2) loses nothing, while memory that took its place would lose
    what it holds. So stop before the file is unmapped, and leave out what llama.cpp unmaps on its own: on a CPU, all before the first tensor.
    """

    def __init__(self, path: Path, begin: int, end: int) -> None:
        self._path, self._begin, self._end = str(path.resolve()), begin, end
        self._most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="few pages", daemon=True)

    def start(self) -> None:
        if sys.platform == "linux":
            self._most = _file_pages() + _MOST // mmap.PAGESIZE
            self._thread.start()

    def stop(self) -> None:
        """May be called more than once."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        while not self._done.wait(_PAUSE):
            if _file_pages() > self._most:
                for first, last in self._mapped():
                    advise(first, last - first, _DONTNEED)

    def _mapped(self) -> Iterator[tuple[int, int]]:
        """Addresses of whole pages where the file is mapped to be read (proc_pid_maps(5))."""
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            words = line.split(maxsplit=5)
            if len(words) < 6 or words[1] != "r--s" or words[5] != self._path:
                continue
            first, last = (int(word, 16) for word in words[0].split("-"))
            zero = first - int(words[2], 16)  # where the file's first byte would be
            first = max(first, zero + -(-self._begin // mmap.PAGESIZE) * mmap.PAGESIZE)
            last = min(last, zero + self._end // mmap.PAGESIZE * mmap.PAGESIZE)
            if first < last:
                yield first, last


def _file_pages() -> int:
    """Pages of files resident in this process (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[2])
