"""A finished GGUF in llama.cpp: what it reads, what it thinks comes next, what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from papertune.device import cores
from papertune.errors import MissingLibrary
from papertune.export.gguf import read_head
from papertune.export.pages import FewPages
from papertune.llama import Gguf, _library
from papertune.sampling import Sampling


def available() -> bool:
    """Whether GGUF files can be run here."""
    try:
        return _library() is not None
    except MissingLibrary:
        return False


def load_gguf(path: Path, context: int = 2048) -> LoadedGguf:
    """The model in this file, with room for ``context`` tokens. Raises MissingLibrary, BadGguf or OutOfMemory."""
    return LoadedGguf(path, context, threads=max(1, cores() - 1))  # its threads spin: with one core for the rest it is never slow


class LoadedGguf(Gguf):
    """A loaded model in little memory: its weights stay in the file. A context manager; not for use from several threads."""

    def __init__(self, path: Path, context: int, threads: int) -> None:
        head = read_head(path)  # llama.cpp itself may abort on a damaged file
        self._pages = FewPages(path, head.data_start, head.file_size)
        try:
            if not _library().llama_supports_gpu_offload():  # tensors that move to a GPU are unmapped
                self._pages.start()
            super().__init__(path, context=context, threads=threads, repack=False)
        except BaseException:
            self._pages.stop()
            raise

    def close(self) -> None:
        self._pages.stop()
        super().close()

    def tokenize(self, text: str) -> list[int]:
        """The tokens of ``text``, without begin or end token; special tokens in it are read as plain text."""
        return self.encode(text)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """(len(ids), vocabulary) logits of the token after each; ``ids`` fit the context."""
        tokens = np.array(ids, np.int32)
        self._forget()
        parts = []
        for first in range(0, len(tokens), self._batch):
            part = tokens[first : first + self._batch]
            self._compute(part, np.ones(len(part), bool))
            parts.append(self._logits(len(part)).copy())
        return np.concatenate(parts)

    def generate(self, prompt: str, max_tokens: int, seed: int = 0, temperature: float = 0.8) -> str:
        """What the model writes after ``prompt``: at most ``max_tokens``, up to its end token. Temperature 0 takes the likeliest token."""
        greedy = temperature <= 0
        sampling = Sampling(temperature=temperature, repeat_penalty=1.0 if greedy else 1.1, seed=seed)
        return "".join(self.write(prompt, sampling, max_tokens))

    def __enter__(self) -> LoadedGguf:
        return self
