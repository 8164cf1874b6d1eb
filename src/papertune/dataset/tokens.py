"""How many tokens a text has, fast enough to ask for every sentence of a corpus.

Words recur, so counts are remembered word by word. That is exact where no token reaches over a space: true of SentencePiece vocabularies
such as Mistral's, whose pieces have the space mark only in front, and of byte-level ones, which cut before each space first. Runs of
spaces may make fewer tokens than counted, never more.
"""

from __future__ import annotations

from papertune.tokenizer import Tokenizer

_REMEMBERED = 400_000  # words; about 60 MB


class TokenCounter:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._words = _Words(tokenizer)

    def __call__(self, text: str) -> int:
        """Tokens of ``text`` without begin and end token, when it opens a text or follows a space."""
        if len(self._words) > _REMEMBERED:
            self._words.clear()
        return sum(map(self._words.__getitem__, text.split(" ")))


class _Words(dict[str, int]):
    """Words to the number of their tokens. SentencePiece puts a space before every text itself; others get it here."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._encode = tokenizer.encode
        self._space = "" if tokenizer.encode("a the")[-1:] == tokenizer.encode("the") else " "

    def __missing__(self, word: str) -> int:
        count = self[word] = max(1, len(self._encode(self._space + word)))
        return count
