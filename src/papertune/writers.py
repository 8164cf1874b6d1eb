"""The model that writes: in Ollama, or a GGUF file in this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from papertune.device import cores
from papertune.sampling import Sampling


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

    Raises OllamaUnavailable, BadGguf, MissingLibrary or OutOfMemory.
    """
    if gguf is None:
        from papertune.ollama import Ollama, address

        yield Ollama(address(host), model, context=context, timeout=timeout, say=say)
    else:
        from papertune.llama import Gguf

        with Gguf(gguf, context=context, threads=threads or cores()) as file:
            yield file
