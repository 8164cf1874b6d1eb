"""The demo's papers as written: ``papers/NAME.md``, read into a ``Paper``.

A file is TOML between two lines ``+++`` and then light Markdown, its blocks parted by blank lines: ``## section``, ``### subsection``,
a paragraph (on one line, with ``*emphasis*`` and ``^[a footnote]``), ``$$`` before a formula in Typst's notation, a fence ```` ```figure ````
with the caption on its first line and Typst code inside, and ``Table:`` with a caption above ``| rows |``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

from papertune.records import Block, Document

PAPERS = files("papertune.demo") / "papers"
_RUN = re.compile(r"\*(?P<emphasis>[^*]+)\*|\^\[(?P<note>[^\]]+)\]|(?P<text>(?:[^*^]|\^(?!\[))+)")
_BLOCK = re.compile(r"^```figure (?P<figure>.+)\n(?P<code>(?:.*\n)*?)```$|^(?P<other>\S.*(?:\n\S.*)*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of a paragraph."""

    kind: Literal["text", "emphasis", "note"]
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """One block of a paper. ``text`` is a heading, a formula, or the caption of a figure or table."""

    kind: Literal["heading", "paragraph", "formula", "figure", "table"]
    text: str = ""
    level: int = 0
    runs: tuple[Run, ...] = ()
    code: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Paper:
    """A paper. ``layout`` holds the wishes that ``papers/template.typ`` knows; ``format`` is the file it is typeset to."""

    name: str
    title: str
    short_title: str
    authors: list[str]
    running_authors: str
    affiliation: str
    journal: str
    abstract: str
    acknowledgements: str
    references: list[str]
    items: tuple[Item, ...]
    first_page: int = 1
    format: Literal["pdf", "epub"] = "pdf"
    layout: Mapping[str, Any] = field(default_factory=dict)


def papers() -> list[Paper]:
    """All papers, in the order of their names."""
    sources = sorted((entry for entry in PAPERS.iterdir() if entry.name.endswith(".md")), key=lambda entry: entry.name)
    return [_parse(entry.name.removesuffix(".md"), entry.read_text(encoding="utf-8")) for entry in sources]


def known_text() -> dict[str, tuple[Block, ...]]:
    """What is printed in each paper, by the name of its file without the ending: the truth that an extraction can be held against.

    Headings come without their numbers, paragraphs without footnote marks; footnotes follow their paragraph, floats stand where the
    source has them, and the words inside drawings are left out. A formula is given in Typst's notation.
    """
    return {paper.name: tuple(_blocks(paper)) for paper in papers()}


def paper_text(name: str) -> str:
    """The running text of one paper in the form of an extracted ``.txt``. Raises KeyError for an unknown name."""
    return Document(name, "", "", 0, known_text()[name]).running_text()


def _parse(name: str, source: str) -> Paper:
    _, head, body = source.split("+++\n", 2)
    return Paper(name=name, items=tuple(_item(match) for match in _BLOCK.finditer(body)), **tomllib.loads(head))


def _item(match: re.Match[str]) -> Item:
    if match["figure"]:
        return Item("figure", match["figure"], code=match["code"])
    text = match["other"]
    if heading := re.match(r"##(#?) (.+)$", text):
        return Item("heading", heading[2], level=1 + len(heading[1]))
    if text.startswith("$$ "):
        return Item("formula", text.removeprefix("$$ "))
    if text.startswith("Table: "):
        caption, *rows = text.removeprefix("Table: ").split("\n")
        return Item("table", caption, rows=tuple(tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows))
    return Item("paragraph", runs=tuple(_runs(text)))


def _runs(text: str) -> Iterator[Run]:
    for match in _RUN.finditer(text):
        if match["note"]:
            yield Run("note", match["note"])
        else:
            yield Run("emphasis", match["emphasis"]) if match["emphasis"] else Run("text", match["text"])


def _blocks(paper: Paper) -> Iterator[Block]:
    yield Block("title", paper.title)
    yield Block("author", ", ".join(paper.authors))
    yield Block("author", paper.affiliation)
    yield Block("heading", "Abstract", level=1)
    yield Block("paragraph", paper.abstract)
    for item in paper.items:
        match item.kind:
            case "heading":
                yield Block("heading", item.text, level=item.level)
            case "paragraph":
                yield Block("paragraph", "".join(run.text for run in item.runs if run.kind != "note"))
                yield from (Block("footnote", run.text) for run in item.runs if run.kind == "note")
            case "formula":
                yield Block("formula", item.text)
            case "figure" | "table":
                yield Block("caption", item.text)
                if item.rows:
                    yield Block("table", "\n".join(" | ".join(row) for row in item.rows))
    yield Block("back", "Acknowledgements")
    yield Block("back", paper.acknowledgements)
    yield Block("back", "References")
    yield from (Block("reference", text) for text in paper.references)
