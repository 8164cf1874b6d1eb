"""The model that writes: in Ollama, or a GGUF file in this process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from papertune.device import cores
from papertune.sampling import Sampling

_END = 1 << 20  # bytes at each end of a GGUF that tell it from another; the first have the metadata with the adapter's hash


class Writer(Protocol):
    """``context`` is how many tokens it sees at a time, prompt and what it writes together."""

    context: int

    def count(self, text: str) -> int:
        """How many tokens ``text`` has, or somewhat more."""

    def write(self, prompt: str, sampling: Sampling, most: int) -> Generator[str, None, bool]:
        """Text after ``prompt`` in pieces, at most ``most`` tokens; returns whether the model itself ended it."""


@contextmanager
def open_writer(
    *, gguf: Path | None, model: str, host: str, context: int, timeout: float, threads: int, say: Callable[[str], None]
) -> Iterator[Writer]:
    """The GGUF file if one is named, else the model in Ollama; ``say`` is told of its troubles.

    Raises BadValue, OllamaUnavailable, BadGguf, MissingLibrary or OutOfMemory.
    """
    if gguf is None:
        from papertune.ollama import Ollama, address

        yield Ollama(address(host), model, context=context, timeout=timeout, say=say)
    else:
        from papertune.llama import Gguf

        with Gguf(gguf, context=context, threads=threads or cores()) as file:
            yield file


def weights_of(*, gguf: Path | None, model: str, host: str) -> str:
    """Changes when the model does, though its name stays. "" where that cannot be told: there is no such file or model, or no server.

    Raises BadValue.
    """
    if gguf is None:
        from papertune.ollama import address, digest

        return digest(address(host), model)
    try:
        with gguf.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            sha256 = hashlib.sha256(f"{size}".encode() + file.read(_END))
            file.seek(max(0, size - _END))
            sha256.update(file.read())
    except OSError:
        return ""
    return sha256.hexdigest()
