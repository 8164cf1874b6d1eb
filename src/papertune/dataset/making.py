"""What runs in a worker process: files in, lines of ``train.jsonl`` out, a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from papertune.dataset.examples import Shape, examples_of
from papertune.dataset.read import read_paper
from papertune.dataset.tokens import TokenCounter
from papertune.family import MISTRAL
from papertune.tokenizer import open_tokenizer


@dataclass(frozen=True, slots=True)
class Batch:
    """Files under ``folder`` to make examples of; ``numbers`` are their places in the order of the corpus."""

    numbers: tuple[int, ...]
    files: tuple[Path, ...]
    folder: Path
    tokenizer: Path
    shape: Shape


@dataclass(frozen=True, slots=True)
class Made:
    """One paper's examples as lines without line end, and the tokens of each."""

    name: str
    source: str
    sha256: str
    lines: tuple[bytes, ...]
    tokens: tuple[int, ...]


def make(batch: Batch) -> list[Made]:
    """The papers of the batch, in order."""
    return [_make(path, batch) for path in batch.files]


def _make(path: Path, batch: Batch) -> Made:
    paper = read_paper(path, batch.folder)
    pairs = list(examples_of(paper, paper.blocks, batch.shape, _counter(batch.tokenizer), MISTRAL))
    lines = tuple(example.to_json().encode("utf-8", "backslashreplace") for example, _ in pairs)
    return Made(paper.name, paper.source, paper.sha256, lines, tuple(tokens for _, tokens in pairs))


@lru_cache(maxsize=1)
def _counter(folder: Path) -> TokenCounter:
    return TokenCounter(open_tokenizer(folder))
