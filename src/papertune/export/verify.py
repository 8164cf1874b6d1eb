"""Is the GGUF the tuned model? It is loaded in llama.cpp and compared with the model that it was made from, on the user's own text.

Three things can go wrong without an error: a vocabulary that splits text otherwise, tensors in the wrong place or order, and a quantisation
that went astray. The first shows in the token numbers, the others in what the model thinks of the text, in bits a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from papertune.errors import BadAdapter, BadExport
from papertune.export.check import load_gguf
from papertune.export.forward import run_model
from papertune.export.source import TensorSource
from papertune.llama import cross_entropy
from papertune.tokenizer import Tokenizer, open_tokenizer

WORST = 0.12  # bits a byte that the GGUF may lose; 4-bit quantisation loses about 0.01, a wrong row order whole bits
FOREIGN = 0.5  # bits a byte that an adapter may lose against its base alone; training gains some tenths


@dataclass(frozen=True, slots=True)
class Verdict:
    """``bits`` are bits a byte of text, of the model in float32 and of the GGUF; ``agreement`` is how often both have the same likeliest token."""

    tokens: int
    model_bits: float
    gguf_bits: float
    agreement: float

    def __str__(self) -> str:
        return f"{self.gguf_bits:.3f} bits a byte, the model {self.model_bits:.3f}; same next token {self.agreement:.1%} of {self.tokens}"


def verify(gguf: Path, source: TensorSource, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Verdict:
    """Raises BadExport when the file does not say what the model says, BadGguf when it cannot be run, MissingLibrary."""
    tokenizer = open_tokenizer(source.base.folder)
    with load_gguf(gguf, max(map(len, tokens)) + 8) as loaded:
        for text in texts:
            if loaded.tokenize(text) != tokenizer.encode(text):
                raise BadExport(f"{gguf} splits text into other tokens than the model does: {text[:40]!r}.", _REMEDY)
        theirs = [_think(loaded.logits(ids), ids) for ids in tokens]
    ours = [_think(logits, ids) for logits, ids in zip(run_model(source, tokens), tokens, strict=True)]
    size = _bytes(tokenizer, tokens)
    model_bits, gguf_bits = (sum(bits for bits, _ in all_texts) / size for all_texts in (ours, theirs))
    same = np.concatenate([a == b for (_, a), (_, b) in zip(ours, theirs, strict=True)])
    verdict = Verdict(same.size, model_bits, gguf_bits, float(same.mean()))
    if not gguf_bits - model_bits < WORST:  # also when it is no number
        raise BadExport(f"{gguf} does not write like the model it was made from: {verdict}.", _REMEDY)
    return verdict


def check_base(source: TensorSource, tokens: Sequence[Sequence[int]], verdict: Verdict) -> None:
    """Raises BadAdapter when the text is far less likely to the tuned model than to its base alone: the adapter learnt on top of something else.

    For adapters that do not say which model they were trained on; shapes alone agree between all models of a size.
    """
    with TensorSource(source.base, None) as base:
        tokenizer = open_tokenizer(source.base.folder)
        bits = sum(_think(logits, ids)[0] for logits, ids in zip(run_model(base, tokens), tokens, strict=True))
        base_bits = bits / _bytes(tokenizer, tokens)
    if verdict.model_bits - base_bits > FOREIGN:
        what = f"The adapter spoils {source.base.name}: {verdict.model_bits:.2f} bits a byte of the validation text, {base_bits:.2f} without it."
        raise BadAdapter(what, "Name the base model that it was trained on in its adapter_config.json; --no-verify exports it all the same.")


_REMEDY = "The file was not given its final name. Please report this; --no-verify writes it all the same."


def _bytes(tokenizer: Tokenizer, tokens: Sequence[Sequence[int]]) -> int:
    """Bytes of text in these tokens, but for the first of each."""
    return sum(len(tokenizer.decode(list(ids)[1:]).encode()) for ids in tokens)


def _think(logits: NDArray[np.float32], ids: Sequence[int]) -> tuple[float, NDArray[np.int64]]:
    """Bits of all tokens of a text after its first, given those before them, and the likeliest token after each. ``logits``: tokens × vocabulary."""
    nats = cross_entropy(logits[:-1], np.asarray(ids[1:], np.int32))
    return float(nats.sum() / np.log(2)), logits.argmax(axis=1)
