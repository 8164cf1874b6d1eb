"""What is measured: each paper as passages of which every byte counts once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from papertune.errors import BadDataset
from papertune.files import read_plain
from papertune.records import Example, read_examples

_DOCUMENT = "\n\x1e\n"  # the line between documents of one file


@dataclass(frozen=True, slots=True)
class Passage:
    """The model reads ``prompt`` and the first ``known`` characters of ``text``; the rest of ``text`` is what it is measured on.

    ``ends``: the paper or section truly ends with it.
    """

    prompt: str
    text: str
    known: int = 0
    ends: bool = True


@dataclass(frozen=True, slots=True)
class Paper:
    """One paper, or one document of general text: the unit of the intervals."""

    name: str
    passages: tuple[Passage, ...]


def read_papers(path: Path) -> list[Paper]:
    """The papers of a ``.jsonl`` of examples, of a text file (a document each, where lines with U+001E part them), or of a folder of texts.

    An example is measured after its prompt, as in training. Where it repeats the end of the one before (``--overlap``), that part is only
    read: it was measured there. Raises BadDataset.
    """
    papers = list(_read(path))
    if not papers:
        raise BadDataset(f"{path} holds no text.", "Name a .jsonl of prepare_dataset.py, a text file, or a folder of text files.")
    return papers


def documents(text: str, name: str) -> list[Paper]:
    """The documents of a text, numbered if there are several."""
    parts = [part.strip("\n") for part in text.split(_DOCUMENT) if part.strip()]
    return [Paper(f"{name} {i}" if len(parts) > 1 else name, (Passage("", part),)) for i, part in enumerate(parts, 1)]


def _read(path: Path) -> Iterator[Paper]:
    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            yield from documents(_text(file), file.relative_to(path).with_suffix("").as_posix())
    elif path.suffix == ".jsonl":
        by_paper: defaultdict[str, list[Example]] = defaultdict(list)
        for example in read_examples(path):
            by_paper[example.paper or example.id].append(example)
        for name, examples in by_paper.items():
            yield Paper(name, tuple(_passages(examples)))
    else:
        yield from documents(_text(path), path.stem)


def _passages(examples: list[Example]) -> Iterator[Passage]:
    before: Example | None = None
    for example in sorted(examples, key=lambda e: e.span or (0, 0)):
        known = _repeated(before, example) if before else 0
        if example.text[known:].strip():
            yield Passage(example.prompt, example.text, known, example.end)
        before = example


def _repeated(before: Example, example: Example) -> int:
    """Characters that ``example`` begins with and ``before`` ends with; 0 where their places in the paper do not overlap."""
    if not before.span or not example.span or example.span[0] >= before.span[1]:
        return 0
    longest = min(len(before.text), len(example.text))
    return next((size for size in range(longest, 0, -1) if before.text.endswith(example.text[:size])), 0)


def _text(path: Path) -> str:
    try:
        return read_plain(path)
    except OSError as error:
        raise BadDataset(f"{path} cannot be read: {error.strerror}.", "Run prepare_dataset.py first, or name another file.") from error
    except ValueError as error:
        raise BadDataset(str(error), "Extract its text first, or save it as plain text, and name that.") from error
