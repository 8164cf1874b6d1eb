"""Pieces of the user's own validation text, as tokens: what a GGUF is checked on and an importance matrix is collected from."""

from __future__ import annotations

from pathlib import Path

from papertune.base import Base
from papertune.records import read_examples
from papertune.tokenizer import open_tokenizer

VERIFIED, LENGTH = 4, 96  # texts, and tokens of each, that verification compares with the model in full
_OURS = (
    "# On the growth of cells in culture\n\n## Methods\n\nCells were kept at 37 °C in 5 % CO₂ and counted every 24 h (n = 12). "
    "Growth followed N(t) = N₀·e^{kt}, with k = 0.031 ± 0.004 h⁻¹; see also Müller et al. (2019).\n\n## Results\n\nThe yield rose by 14.2 %."
)


def sample_texts(val_file: Path) -> list[str]:
    """The texts of the validation file, or a paragraph of papertune's own where there is none."""
    if not val_file.is_file():
        return [_OURS]
    return [example.prompt + example.text for example in read_examples(val_file)] or [_OURS]


def sample_tokens(base: Base, texts: list[str], *, count: int, length: int) -> list[list[int]]:
    """At most ``count`` windows of at most ``length`` tokens with the begin token, spread evenly over ``texts``."""
    tokenizer = open_tokenizer(base.folder)
    step = max(1, len(texts) // count)
    chosen = texts[::step][:count]
    return [[tokenizer.bos, *tokenizer.encode(text)][:length] for text in chosen]
