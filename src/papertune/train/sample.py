"""What the model writes: the continuation of a held-out passage, the same one each time, taking the likeliest token at each place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from papertune.tokenizer import Tokenizer
from papertune.train.batches import TokenSequence

if TYPE_CHECKING:
    import numpy as np

    from papertune.train.loop import Engine

GIVEN = 24  # tokens of the passage's text that are given, after its prompt


def beginning(passage: TokenSequence) -> np.ndarray:
    """Its tokens that are given."""
    return passage.ids[: passage.start + min(GIVEN, passage.targets // 2)]


def continuation(engine: Engine, tokenizer: Tokenizer, passage: TokenSequence, count: int) -> tuple[str, str]:
    """The text that is given and the text that follows: at most ``count`` tokens, to the end of the text."""
    import numpy as np

    ids = given = beginning(passage)
    for _ in range(count):
        token = engine.next_token(ids)
        if token == tokenizer.eos:
            break
        ids = np.append(ids, np.int32(token))
    whole, start = tokenizer.decode(ids.tolist()), tokenizer.decode(given.tolist())
    return start, whole.removeprefix(start)
