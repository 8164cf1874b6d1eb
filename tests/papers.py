"""Invented papers for tests: sections and sentences of random words, none like another, the same for the same seed."""

from __future__ import annotations

import random
from pathlib import Path

_SYLLABLES = ["ba", "co", "di", "fu", "ge", "hi", "jo", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "wa", "xe", "yo", "zu"]
_HEADINGS = ("Abstract", "Introduction", "Methods", "Results", "Discussion", "Conclusions")
_GLUE = ["the", "of", "and", "in", "to", "was", "were", "with", "for", "that", "by", "from", "is", "are"]


def paper(draw: random.Random, words: list[str], title: str) -> str:
    parts = [f"# {title}"]
    for heading in _HEADINGS:
        parts.append(f"## {heading}")
        for _ in range(draw.randint(1, 5)):
            sentences = [_sentence(draw, words) for _ in range(draw.randint(2, 9))]
            parts.append(" ".join(sentences))
    return "\n\n".join(parts) + "\n"


def invented(*, count: int, seed: int) -> list[str]:
    """So many papers in light Markdown."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(_SYLLABLES, k=draw.randint(1, 4))) for _ in range(4000)]
    return [paper(draw, words, f"On {draw.choice(words)} number {k}") for k in range(count)]


def write_papers(folder: Path, *, count: int, seed: int) -> None:
    """``paper-00.txt`` … in ``folder``, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, text in enumerate(invented(count=count, seed=seed)):
        (folder / f"paper-{k:02d}.txt").write_text(text, encoding="utf-8")


def _sentence(draw: random.Random, words: list[str]) -> str:
    chosen = [draw.choice(_GLUE if k % 2 else words) for k in range(draw.randint(6, 30))]
    return " ".join(chosen).capitalize() + "."
