"""Says of each sentence whether it goes on with the article or is a model running in circles or off the rails."""

from __future__ import annotations

from papertune.repetition import words_of

_RUN = 5  # words that count as a repetition when they come again in the same order
_LONGEST = 100  # words in a sentence


class Guard:
    """Remembers what was written; a sentence is judged by ``fault`` and, when it stays, given to ``keep``.

    ``lenient`` lets pass what is no prose: for a model that writes nothing else.
    """

    def __init__(self) -> None:
        self.lenient = False
        self._seen: set[tuple[str, ...]] = set()
        self._sentences: set[tuple[str, ...]] = set()

    def keep(self, sentence: str) -> None:
        words = words_of(sentence)
        self._seen |= _runs(words)
        self._sentences.add(tuple(words))

    def fault(self, sentence: str) -> str:
        """What is wrong with it in a word, or nothing: "repeats" what was written or itself, "drifts" into what is no prose."""
        words = words_of(sentence)
        if not words:
            return "drifts"
        runs = _runs(words)
        # A sentence of the usual kind shares few runs with the rest of its article, and hardly any with itself.
        if tuple(words) in self._sentences or (runs and len(runs & self._seen) > 0.5 * len(runs)):
            return "repeats"
        if len(words) >= 2 * _RUN and len(runs) < 0.6 * (len(words) - _RUN + 1):
            return "repeats"
        letters = sum(c.isalpha() for c in sentence)
        if self.lenient:
            return ""
        if len(words) > _LONGEST or letters < 0.5 * sum(not c.isspace() for c in sentence):
            return "drifts"
        return ""


def endless(unfinished: str) -> bool:
    """Whether this is too long for the beginning of a sentence."""
    return len(unfinished) > 9 * _LONGEST or len(unfinished.split()) > _LONGEST


def _runs(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)}
