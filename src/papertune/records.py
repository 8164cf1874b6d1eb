"""The records that pass from step to step, and their form on disk (``docs/formats.md``).

A ``Document`` is one paper as blocks; extraction writes its running text as ``NAME.txt`` and all its blocks as ``NAME.blocks.json``.
An ``Example`` is one line of ``train.jsonl`` or ``val.jsonl``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from papertune.errors import BadDataset

Kind = Literal[
    "title", "heading", "paragraph",  # the running text
    "author", "caption", "table", "formula", "footnote", "reference", "back",  # kept in the sidecar
    "furniture",  # running heads, page and line numbers, watermarks
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
RUNNING: frozenset[Kind] = frozenset({"title", "heading", "paragraph"})

_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Place:
    """Where text stands: page number from 1; box as (left, top, right, bottom) in points of 1/72 inch from the page's top left.

    ``box`` is None when the backend cannot tell (EPUB, text-only fallbacks).
    """

    page: int
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A run of text of one kind, in reading order. A paragraph broken by a column or page has several places.

    ``level`` is the depth of a heading: 1 for a section, 2 for a subsection; 0 for every other kind.
    """

    kind: Kind
    text: str
    places: tuple[Place, ...] = ()
    level: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """One paper as read. ``engine`` is the backend that read it; ``pages`` is 0 when the format has none.

    ``unread`` are pages that show text which is not in ``blocks``, ``unsure`` those whose blocks may not be what they are taken for.
    """

    source: str
    sha256: str
    engine: str
    pages: int
    blocks: tuple[Block, ...]
    unread: tuple[int, ...] = ()
    unsure: tuple[int, ...] = ()

    def running_text(self) -> str:
        """Title, headings and paragraphs as light Markdown, blocks parted by a blank line."""
        parts = [markdown(block) for block in self.blocks if block.kind in RUNNING]
        return "\n\n".join(parts) + "\n" if parts else ""

    def to_json(self) -> str:
        blocks = [
            {"kind": b.kind, "text": b.text, "places": [{"page": p.page, "box": p.box} for p in b.places], "level": b.level} for b in self.blocks
        ]
        head = {"version": 1, "source": self.source, "sha256": self.sha256, "engine": self.engine, "pages": self.pages}
        doubts = {name: pages for name, pages in (("unread", self.unread), ("unsure", self.unsure)) if pages}
        return _COMPACT.encode({**head, **doubts, "blocks": blocks})

    @classmethod
    def from_json(cls, text: str) -> Document:
        """Raises ValueError, KeyError or TypeError when the text is not a sidecar."""
        raw = json.loads(text)
        blocks = tuple(
            Block(b["kind"], b["text"], tuple(Place(p["page"], tuple(p["box"]) if p["box"] else None) for p in b["places"]), b["level"])
            for b in raw["blocks"]
        )
        doubts = tuple(raw.get("unread", ())), tuple(raw.get("unsure", ()))
        return cls(raw["source"], raw["sha256"], raw["engine"], raw["pages"], blocks, *doubts)


def markdown(block: Block) -> str:
    """The block as it stands in the ``.txt``: ``# title``, ``## section``, ``### subsection``, or its text on one line."""
    text = " ".join(block.text.split())
    if block.kind == "title":
        return f"# {text}"
    if block.kind == "heading":
        return f"{'#' * (1 + max(1, block.level))} {text}"
    return text


@dataclass(frozen=True, slots=True)
class Example:
    """One training example. The model reads ``prompt`` and learns to write ``text``.

    ``end`` says that ``text`` stops where the paper or section truly ends: only then is it followed by the end-of-text token.
    ``paper`` is the split's unit: no paper stands in both training and validation. ``source`` and ``sha256`` name the file that was
    read, ``pages`` the first and last page, ``span`` the characters of the ``.txt`` from which ``text`` was made.
    """

    id: str
    paper: str
    text: str
    prompt: str = ""
    end: bool = False
    source: str = ""
    sha256: str = ""
    pages: tuple[int, int] | None = None
    span: tuple[int, int] | None = None

    def to_json(self) -> str:
        return _COMPACT.encode({name: getattr(self, name) for name in self.__slots__})  # asdict copies deeply, and is ten times slower

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str) -> Example:
        """Accepts any object with a ``text``, so that a user may bring a file of their own. ``where`` names the line in errors."""
        text = raw.get("text")
        prompt = raw.get("prompt", "")
        if not isinstance(text, str) or not isinstance(prompt, str):
            raise BadDataset(f'{where} has no "text" string.', "Each line must be a JSON object such as {\"text\": \"…\"}; run prepare_dataset.py.")
        if _HALF.search(text) or _HALF.search(prompt):
            raise BadDataset(f"{where} holds half a character (a lone surrogate).", "Remove it, or run prepare_dataset.py.")
        return cls(
            id=str(raw.get("id", where)),
            paper=str(raw.get("paper", "")),
            text=text,
            prompt=prompt,
            end=bool(raw.get("end", False)),
            source=str(raw.get("source", "")),
            sha256=str(raw.get("sha256", "")),
            pages=_pair(raw.get("pages")),
            span=_pair(raw.get("span")),
        )


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a JSON-lines file, in order. Raises BadDataset, naming the line."""
    try:
        lines = path.open(encoding="utf-8-sig")
    except OSError as error:
        remedy = "Run prepare_dataset.py first, or name the file (--train-file, --val-file, --against)."
        raise BadDataset(f"{path} cannot be read: {error.strerror}.", remedy) from error
    with lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    raw = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise BadDataset(f"{path}, line {number} is not JSON: {error}.", "Run prepare_dataset.py again.") from error
                if not isinstance(raw, dict):
                    raise BadDataset(f"{path}, line {number} is not a JSON object.", "Run prepare_dataset.py again.")
                yield Example.from_dict(raw, f"{path}, line {number}")
        except UnicodeDecodeError as error:
            raise BadDataset(f"{path} is not UTF-8 text: {error.reason}.", "Run prepare_dataset.py again.") from error


_HALF = re.compile("[\ud800-\udfff]")  # of a letter: JSON can write it, and no tokenizer reads it


def _pair(value: Any) -> tuple[int, int] | None:
    whole = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(number, int) for number in value)
    return (value[0], value[1]) if whole else None
