"""Examples as token sequences, and the order in which training sees them.

A sequence is BEGIN + prompt + text, and END only where the paper or section truly ends. Loss is taken on the text alone. The order is a
pure function of the seed: the stream is one permutation after another, an epoch each, and a run is at a position in that stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from papertune.events import OnEvent, Unit, ignore
from papertune.records import Example, read_examples
from papertune.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

TELLING = 1000  # examples between two signs of life


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """``ids`` are int32 tokens, begin token first; loss is on ``ids[start:]``, each predicted from all before it. ``bytes`` is their text's size."""

    ids: np.ndarray
    start: int
    bytes: int

    @property
    def targets(self) -> int:
        """How many tokens carry loss."""
        return len(self.ids) - self.start


@dataclass(frozen=True, slots=True)
class Sequences:
    """All sequences of a file, in its order. ``split`` examples were longer than a sequence may be; ``papers`` are the papers named."""

    items: tuple[TokenSequence, ...]
    examples: int
    split: int
    papers: frozenset[str]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def tokens(self) -> int:
        return sum(len(item.ids) for item in self.items)


def read_sequences(path: Path, tokenizer: Tokenizer, longest: int, on_event: OnEvent = ignore) -> Sequences:
    """The examples of a ``.jsonl`` file as sequences of at most ``longest`` tokens. Raises BadDataset.

    A longer example becomes several sequences of nearly equal length, each after the same prompt, so that no text is lost.
    """
    items: list[TokenSequence] = []
    examples, split, papers = 0, 0, set()
    for i, example in enumerate(read_examples(path)):
        if i % TELLING == 0 and i:
            on_event(Unit(i))
        pieces = list(_tokenize(example, tokenizer, longest))
        examples += bool(pieces)
        split += len(pieces) > 1
        items += pieces
        if example.paper:
            papers.add(example.paper)
    return Sequences(tuple(items), examples, split, frozenset(papers))


def _tokenize(example: Example, tokenizer: Tokenizer, longest: int) -> Iterable[TokenSequence]:
    import numpy as np

    # Prompt and text are encoded as one, as they will be when the finished model is prompted; a token over the seam belongs to the text.
    whole = tokenizer.encode(example.prompt + example.text)
    seam = _common(whole, tokenizer.encode(example.prompt)) if example.prompt else 0
    prompt, text = whole[:seam], whole[seam:]
    if not text:
        return
    if example.end:
        text = [*text, tokenizer.eos]
    prompt = prompt[-(longest // 2) :]  # an overlong prompt keeps its end, next to the text
    room = longest - 1 - len(prompt)
    count = -(-len(text) // room)
    size = len(example.text.encode())
    for i in range(count):
        first, last = i * len(text) // count, (i + 1) * len(text) // count
        ids = np.array([tokenizer.bos, *prompt, *text[first:last]], dtype=np.int32)
        yield TokenSequence(ids, 1 + len(prompt), _share(size, i, count))


def _share(size: int, i: int, count: int) -> int:
    """The i-th of ``count`` nearly equal whole parts that add up to ``size``."""
    return (i + 1) * size // count - i * size // count


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@dataclass(frozen=True)
class Stream:
    """The endless order in which ``data`` is seen: permutation after permutation, each a function of ``seed`` and epoch alone."""

    data: Sequences
    seed: int

    def take(self, position: int, count: int) -> list[TokenSequence]:
        """``count`` sequences from this position of the stream on."""
        size = len(self.data)
        return [self.data.items[permutation(self.seed, p // size, size)[p % size]] for p in range(position, position + count)]


@lru_cache(maxsize=2)  # a step may straddle two epochs
def permutation(seed: int, epoch: int, size: int) -> tuple[int, ...]:
    import numpy as np

    return tuple(np.random.Generator(np.random.PCG64([seed, epoch])).permutation(size).tolist())
