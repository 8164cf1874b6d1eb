"""How the next token is drawn, the same for a model in Ollama and one in this process."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Sampling:
    """Ollama's names and defaults. The same seed draws the same way; a temperature of 0 takes the likeliest token."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    repeat_penalty: float = 1.1
    repeat_last_n: int = 64
    seed: int = 0


class Sampler:
    """Draws one text's tokens, one after the other. They depend on seed and logits alone.

    In llama.cpp's order: what was drawn among the last ``repeat_last_n`` tokens is made less likely, the ``top_k`` likeliest stay, of these
    the fewest that have ``top_p`` of the probability together, and among those the temperature decides.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))
        self._recent: deque[int] = deque(maxlen=sampling.repeat_last_n)

    def draw(self, logits: np.ndarray) -> int:
        """The next token. logits: (vocabulary,), not changed."""
        scores = logits.astype(np.float64)
        recent = np.unique(np.fromiter(self._recent, np.int64))
        scores[recent] *= np.where(scores[recent] > 0, 1 / self._sampling.repeat_penalty, self._sampling.repeat_penalty)
        token = int(scores.argmax()) if self._sampling.temperature <= 0 else self._choose(scores)
        self._recent.append(token)
        return token

    def _choose(self, scores: np.ndarray) -> int:
        wanted = min(self._sampling.top_k, len(scores))
        least = np.partition(scores, -wanted)[-wanted]
        tokens = np.flatnonzero(scores >= least)  # of equal ones the first, whatever order a sort leaves them in
        tokens = tokens[np.argsort(-scores[tokens], kind="stable")][:wanted]
        scores = scores[tokens] - scores[tokens[0]]
        together = np.cumsum(np.exp(scores))
        kept = 1 + int(np.searchsorted(together, self._sampling.top_p * together[-1]))
        with np.errstate(over="ignore"):  # near 0 all but the likeliest fall to minus infinity, as they should
            together = np.cumsum(np.exp(scores[:kept] / self._sampling.temperature))
        drawn = int(np.searchsorted(together, self._random.random() * together[-1], side="right"))
        return int(tokens[min(drawn, kept - 1)])  # the product may round up to the whole
