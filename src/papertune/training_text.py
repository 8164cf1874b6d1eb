"""The training text as a collection to compare other text with, and what such a comparison says.

The training text is a ``train.jsonl``, or a folder of texts as extraction writes them. A copy is told by paper and page; it counts as
memorised from ``LEAST_TOKENS`` tokens on, the threshold the literature on memorisation uses (Lee et al. 2022, arXiv 2107.06499).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from papertune.copies import Collection, Copy, Source
from papertune.errors import BadDataset, FolderMissing
from papertune.records import RUNNING, Document, Example, markdown, read_examples

LEAST_TOKENS = 50
_SIDECAR = ".blocks.json"

Pages = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """A copy with its size in tokens and its words as they stand in the text looked at."""

    copy: Copy
    tokens: int
    text: str

    @property
    def place(self) -> str:
        """Where it comes from, in words: ``smith2019.pdf, pages 3-4``."""
        name = self.copy.file or self.copy.paper
        return f"{name}, {pages_in_words(self.copy.pages)}" if self.copy.pages else name


@dataclass(frozen=True, slots=True)
class Comparison:
    """All copies in a text of ``characters`` characters, by place."""

    characters: int
    found: tuple[Found, ...]

    @property
    def long(self) -> list[Found]:
        """Those of ``LEAST_TOKENS`` tokens or more."""
        return [found for found in self.found if found.tokens >= LEAST_TOKENS]

    @property
    def longest(self) -> int:
        """Tokens of the longest copy; 0 without any."""
        return max((found.tokens for found in self.found), default=0)

    @property
    def share(self) -> float:
        """Share of the text's characters that stand in long copies."""
        covered = reach = 0
        for found in self.long:
            covered += max(0, found.copy.end - max(reach, found.copy.start))
            reach = max(reach, found.copy.end)
        return covered / self.characters if self.characters else 0.0


class TrainingText:
    """The collection made of a ``.jsonl`` file or a folder of texts. ``texts`` is the folder of extraction, whose sidecars know the page of
    every paragraph; without it a page is as exact as the examples tell.

    Raises BadDataset or FolderMissing when there is nothing to read.
    """

    def __init__(self, path: Path, texts: Path | None = None) -> None:
        self._texts = texts
        self.collection = Collection(sources_of(path))

    def compare(self, text: str, count: Callable[[str], int]) -> Comparison:
        """``count`` gives the tokens of a text."""
        found = []
        for copy in self.collection.copies(text):
            words = text[copy.start : copy.end]
            found.append(Found(self._with_pages(copy, words), count(words), words))
        return Comparison(len(text), tuple(found))

    def _with_pages(self, copy: Copy, words: str) -> Copy:
        """The copy with the pages of the very paragraphs it is from, where a sidecar tells."""
        document = _sidecar(self._texts / f"{copy.paper}.txt") if self._texts else None
        if document is None:
            return copy
        inside = Collection(_sources_of_document(copy.paper, document)).copies(words)
        pages = [c.pages for c in inside if c.pages]
        if not pages:
            return copy
        return Copy(copy.start, copy.end, copy.words, copy.paper, copy.file, (min(p[0] for p in pages), max(p[1] for p in pages)), copy.others)


def sources_of(path: Path) -> Iterator[Source]:
    """The sources in a ``.jsonl`` file or in the ``.txt`` files of a folder, paper by paper."""
    if path.is_dir():
        files = sorted(path.rglob("*.txt"))
        if not files:
            raise FolderMissing(f"{path} holds no .txt file.", "Name extract_text.py's output folder or a train.jsonl.")
        for file in files:
            yield from _sources_of_text(file, file.relative_to(path).with_suffix("").as_posix())
        return
    papers: defaultdict[str, list[Example]] = defaultdict(list)
    for example in read_examples(path):
        papers[example.paper or example.id].append(example)
    if not papers:
        raise BadDataset(f"{path} is empty.", "Run prepare_dataset.py again.")
    for paper, examples in papers.items():
        for example in sorted(examples, key=lambda e: e.span or (0, 0)):
            yield Source(paper, example.text, example.source, example.pages)


def pages_in_words(pages: Pages) -> str:
    return f"page {pages[0]}" if pages[0] == pages[1] else f"pages {pages[0]}-{pages[1]}"


def _sources_of_text(file: Path, paper: str) -> Iterator[Source]:
    """The text's paragraphs; pages are those of the sidecar's block with the same words, so that an edited paragraph stays without."""
    text = file.read_text(encoding="utf-8", errors="replace")
    document = _sidecar(file)
    pages: defaultdict[str, deque[Pages]] = defaultdict(deque)
    for source in _sources_of_document(paper, document) if document else ():
        if source.pages:
            pages[source.text].append(source.pages)
    for paragraph in text.split("\n\n"):
        waiting = pages.get(paragraph.strip())
        yield Source(paper, paragraph, document.source if document else file.name, waiting.popleft() if waiting else None)


def _sources_of_document(paper: str, document: Document) -> Iterator[Source]:
    for block in document.blocks:
        if block.kind in RUNNING:
            numbers = [place.page for place in block.places]
            yield Source(paper, markdown(block), document.source, (min(numbers), max(numbers)) if numbers else None)


def _sidecar(file: Path) -> Document | None:
    try:
        return Document.from_json(file.with_name(file.stem + _SIDECAR).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a text of the user's own has none
