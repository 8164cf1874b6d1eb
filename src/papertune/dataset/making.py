"""What runs in a worker process: files in, lines of ``train.jsonl`` out, with all that is needed to compare papers."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from papertune.dataset.examples import examples_of
from papertune.dataset.filters import sift
from papertune.dataset.fingerprints import Hashes, letters, paragraph_hash, sample, shingles
from papertune.dataset.openings import Shape
from papertune.dataset.read import Block, read_paper
from papertune.dataset.tokens import TokenCounter
from papertune.records import Example
from papertune.tokenizer import open_tokenizer


@dataclass(frozen=True, slots=True)
class Batch:
    """Files under ``folder`` to make examples of; ``numbers`` are their places in the order of the corpus.

    ``drops``: for each paper, paragraphs (by hash) to leave out because others have them, with the reason.
    """

    numbers: tuple[int, ...]
    files: tuple[Path, ...]
    folder: Path
    tokenizer: Path
    shape: Shape
    drops: tuple[Mapping[int, str], ...] = ()


@dataclass(slots=True)
class Made:
    """One paper's examples as lines, with the tokens of each; and what the paper is compared by.

    ``size`` is the number of its letters, ``paragraphs`` are their hashes, ``dropped`` and ``characters`` count the paragraphs left out and
    their characters by reason.
    """

    name: str
    source: str
    sha256: str
    language: str
    size: int
    lines: bytes
    tokens: array[int]
    sample: Hashes
    paragraphs: Hashes
    dropped: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)


def make(batch: Batch) -> list[Made]:
    """The papers of the batch, in order."""
    drops = batch.drops or ({},) * len(batch.files)
    return [_make(path, batch, drop) for path, drop in zip(batch.files, drops, strict=True)]


def shingles_of(path: Path, folder: Path) -> Hashes:
    """All shingles of the paper in this file, each once."""
    blocks = sift(read_paper(path, folder).blocks).blocks
    return np.unique(shingles(b"".join(_letters(blocks))))


def _make(path: Path, batch: Batch, drop: Mapping[int, str]) -> Made:
    paper = read_paper(path, batch.folder)
    sifted = sift(paper.blocks)
    texts = _letters(sifted.blocks)
    hashes = [0 if block.level else paragraph_hash(text) for block, text in zip(sifted.blocks, texts, strict=True)]
    blocks = []
    for block, h in zip(sifted.blocks, hashes, strict=True):
        if h in drop:
            sifted.drop(block, drop[h])
        else:
            blocks.append(block)
    pairs = list(examples_of(paper, blocks, batch.shape, counter(batch.tokenizer)))
    whole = b"".join(texts)
    return Made(
        name=paper.name,
        source=paper.source,
        sha256=paper.sha256,
        language=sifted.language,
        size=len(whole),
        lines=b"".join(line_of(example) for example, _ in pairs),
        tokens=array("I", (tokens for _, tokens in pairs)),
        sample=sample(whole),
        paragraphs=np.array([h for h in hashes if h], np.uint64),
        dropped=sifted.dropped,
        characters=sifted.characters,
    )


def _letters(blocks: list[Block]) -> list[bytes]:
    """The letters of each paragraph; none of headings."""
    return [b"" if block.level else letters(block.text) for block in blocks]


def line_of(example: Example) -> bytes:
    return example.to_json().encode("utf-8", "backslashreplace") + b"\n"


@lru_cache(maxsize=1)
def counter(folder: Path) -> TokenCounter:
    return TokenCounter(open_tokenizer(folder))
