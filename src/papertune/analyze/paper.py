"""A paper as the model reads it: sections cut to its window, and which page a sentence speaks of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from papertune.records import Document

Pages = tuple[int, int]

_WORD = re.compile(r"[^\W\d_]{4,}|\d+(?:\.\d+)?")  # what carries meaning: longer words and numbers
_SURE = 0.5  # share of a sentence's words that a paragraph must have to be what it speaks of


@dataclass(frozen=True, slots=True)
class Paragraph:
    """``pages`` are None where the format has none."""

    text: str
    pages: Pages | None
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Reading:
    """As much of a section as is read at a time. ``heading`` is the section's, also for its later parts."""

    heading: str
    text: str
    pages: Pages | None


@dataclass
class Paper:
    """One document. ``title`` is its own, or the file's name where none was recognised."""

    document: Document
    title: str = ""
    sections: list[tuple[str, list[Paragraph]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        heading = "Abstract"
        for block in self.document.blocks:
            if block.kind == "title" and not self.title:
                self.title = " ".join(block.text.split())
            elif block.kind == "heading":
                heading = " ".join(block.text.split())
            elif block.kind == "paragraph" and block.text.strip():
                pages = [place.page for place in block.places]
                paragraph = Paragraph(" ".join(block.text.split()), (min(pages), max(pages)) if pages else None, frozenset(content(block.text)))
                if not self.sections or self.sections[-1][0] != heading:
                    self.sections.append((heading, []))
                self.sections[-1][1].append(paragraph)
        self.title = self.title or self.document.source.rpartition("/")[2].rpartition(".")[0]

    @cached_property
    def paragraphs(self) -> list[Paragraph]:
        return [paragraph for _, paragraphs in self.sections for paragraph in paragraphs]

    def readings(self, room: int, count: Callable[[str], int]) -> list[Reading]:
        """All sections in order, in parts of at most ``room`` tokens by ``count``; a paragraph longer than that is cut."""
        found = []
        for heading, paragraphs in self.sections:
            part: list[tuple[str, Pages | None]] = []
            for text, pages in (piece for paragraph in paragraphs for piece in _fitting(paragraph, room, count)):
                if part and count("\n\n".join([*(t for t, _ in part), text])) > room:
                    found.append(Reading(heading, "\n\n".join(t for t, _ in part), _span(p for _, p in part)))
                    part = []
                part.append((text, pages))
            found.append(Reading(heading, "\n\n".join(t for t, _ in part), _span(p for _, p in part)))
        return found

    def about(self, question: str, room: int, count: Callable[[str], int]) -> Reading:
        """The paragraphs that share most words with the question, as many as fit, in the paper's order."""
        asked = set(content(question))
        ranked = sorted(range(len(self.paragraphs)), key=lambda i: (-len(asked & self.paragraphs[i].words), i))
        chosen: list[int] = []
        for i in ranked:
            if count("\n\n".join(self.paragraphs[k].text for k in [*chosen, i])) > room:
                break
            chosen.append(i)
        picked = [self.paragraphs[i] for i in sorted(chosen)]
        return Reading(question, "\n\n".join(p.text for p in picked), _span(p.pages for p in picked))

    def page_of(self, sentence: str) -> Pages | None:
        """The pages of the paragraph that shares most words with the sentence; None where none has half of them."""
        words = set(content(sentence))
        best = max(self.paragraphs, key=lambda paragraph: len(words & paragraph.words), default=None)
        return best.pages if best and words and len(words & best.words) >= _SURE * len(words) else None


def content(text: str) -> list[str]:
    """The words that carry meaning, lower-case, in order."""
    return [word.lower() for word in _WORD.findall(text)]


def _fitting(paragraph: Paragraph, room: int, count: Callable[[str], int]) -> Iterable[tuple[str, Pages | None]]:
    parts, size = [paragraph.text], len(paragraph.text)
    while any(count(part) > room for part in parts) and size > 1:
        size = size // 2
        parts = [paragraph.text[i : i + size] for i in range(0, len(paragraph.text), size)]
    return [(part, paragraph.pages) for part in parts]


def _span(pages: Iterable[Pages | None]) -> Pages | None:
    known = [p for p in pages if p is not None]
    return (min(p[0] for p in known), max(p[1] for p in known)) if known else None
