"""A corpus of any size recombined from the 65 real papers beside the project, for measurements only; never committed.

Every paper gets headings, paragraph and sentence lengths of a real one; its words are fragments of three to seven words of the other papers'
sentences, begun where a sentence begins and ended where one ends. So vocabulary and statistics are real, and no two papers share a passage.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

TRUTH = Path(__file__).resolve().parents[2] / "shared" / "papers" / "truth"


def real_papers() -> dict[str, str]:
    """The real papers as extraction would write them: id to light Markdown."""
    papers = {}
    for path in sorted(TRUTH.glob("*.json")):
        truth = json.loads(path.read_text(encoding="utf-8"))
        parts = []
        for k, block in enumerate(truth["main"]):
            mark = ("# " if k == 0 else "## ") if block["kind"] == "heading" else ""
            parts.append(mark + " ".join(block["text"].split()))
        papers[truth["id"]] = "\n\n".join(part for part in parts if part) + "\n"
    return papers


def write_corpus(folder: Path, *, papers: int, megabytes: float, seed: int = 0) -> None:
    """So many papers of about so much text together in ``folder``, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    real = list(real_papers().values())
    opening, middle, closing = _fragments(real)
    share = megabytes * 1e6 / papers
    for k in range(papers):
        parts = [f"# On {' '.join(draw.choice(middle).split()[:6])} ({k})"]
        size = 0
        while size < share:
            for block in draw.choice(real).split("\n\n")[1:]:
                text = block.strip() if block.startswith("#") else _paragraph(draw, len(block), opening, middle, closing)
                parts.append(text)
                size += len(text.encode()) + 2
                if size >= share:
                    break
        (folder / f"made-{k:05d}.txt").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _fragments(real: list[str]) -> tuple[list[str], list[str], list[str]]:
    opening, middle, closing = [], [], []
    for text in real:
        for block in text.split("\n\n"):
            if block.startswith("#"):
                continue
            for sentence in block.replace("? ", ". ").split(". "):
                words = sentence.rstrip(".").split()
                if len(words) >= 9:
                    opening.append(" ".join(words[:4]))
                    closing.append(" ".join(words[-5:]) + ".")
                    middle += [" ".join(words[k : k + 5]) for k in range(4, len(words) - 9, 5)]
    return opening, middle, closing


def _paragraph(draw: random.Random, size: int, opening: list[str], middle: list[str], closing: list[str]) -> str:
    parts: list[str] = []
    length = 0
    while length < size:
        sentence = [draw.choice(opening), *draw.choices(middle, k=draw.randint(1, 4)), draw.choice(closing)]
        parts += sentence
        length += sum(map(len, sentence)) + len(sentence)
    return " ".join(parts)
