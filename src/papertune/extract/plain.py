"""Blocks from bare text: what the last-resort backends give, which know lines but not where they stand.

Furniture is what many pages repeat; a paragraph ends at a blank line or at a short line that ends a sentence; headings, captions and
references are told by their words. Far from the care of ``layout``, but it keeps a paper that would otherwise be lost.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from papertune.extract.backend import Damaged, NoTextLayer, PartlyRead
from papertune.extract.sections import heading_level, mark_references
from papertune.records import Block, Document, Kind, Place

_CAPTION = re.compile(r"(fig(ure)?s?\.?|table|scheme|chart)\s*\d+", re.IGNORECASE)
_PAGE_NUMBER = re.compile(r"\W*(page\s+)?\d{1,5}(\s+of\s+\d{1,5})?\W*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?:][\"'”’)\]]?$")
_SOFT_HYPHENS = ("\u00ad", "\ufffe", "\x02")  # the second is pdfium's mark, the third that of some old fonts

_FULL = 0.8  # share of a full line's length from which on a line does not end its paragraph
_REPEATED = 0.3  # share of the pages, at least three, on which a line of furniture stands
_LETTERS = 0.45  # share of letters below which text is numbers or a formula, not prose


def document_of_pages(engine: str, pages: Sequence[str], failed: Sequence[str]) -> Document:
    """The document whose pages are given as text with line breaks. ``failed`` says, a page each, which are empty because they could not be
    read. Raises NoTextLayer, Damaged or PartlyRead."""
    if not any(page.strip() for page in pages):
        if failed:
            raise Damaged(failed[0])
        raise NoTextLayer(f"{len(pages)} pages without text")
    document = Document("", "", engine, len(pages), blocks_of_pages(pages))
    if failed:
        raise PartlyRead(f"{len(failed)} of {len(pages)} pages are missing; {failed[0]}", document)
    return document


def blocks_of_pages(pages: Sequence[str]) -> tuple[Block, ...]:
    """Blocks of the pages' text. Pages count from 1; boxes are unknown."""
    cleaned = [[_clean(line) for line in page.splitlines()] for page in pages]
    repeated = _repeated(cleaned)
    blocks: list[Block] = []
    for number, page in enumerate(cleaned, 1):
        for kind, lines in _pieces(page, repeated):
            block = Block(kind, _join(lines), (Place(number),), heading_level(lines[0]) if kind == "heading" else 0)
            before = next((index for index in range(len(blocks) - 1, -1, -1) if blocks[index].kind != "furniture"), None)
            if before is not None and _continues(blocks[before], block):
                blocks[before] = Block("paragraph", _join([blocks[before].text, block.text]), (*blocks[before].places, *block.places))
            else:
                blocks.append(block)
    return mark_references(blocks)


def _clean(line: str) -> str:
    """NFC without control characters; a soft hyphen at the end becomes a hyphen, others go."""
    line = line.rstrip()
    if line.endswith(_SOFT_HYPHENS):
        line = line[:-1] + "-"
    kept = (" " if char.isspace() else char for char in line if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Cn"))
    return unicodedata.normalize("NFC", "".join(kept)).strip()


def _masked(line: str) -> str:
    return re.sub(r"\d+", "#", line.lower())


def _repeated(pages: Sequence[Sequence[str]]) -> set[str]:
    counts = Counter(key for page in pages for key in {_masked(line) for line in page if line})
    return {key for key, count in counts.items() if count >= max(3, _REPEATED * len(pages)) and len(key) < 160}


def _pieces(page: Sequence[str], repeated: set[str]) -> Iterator[tuple[Kind, list[str]]]:
    """The page's lines, gathered into pieces of one kind."""
    lengths = sorted(len(line) for line in page if line)
    full = _FULL * lengths[len(lengths) * 9 // 10] if lengths else 0.0
    piece: list[str] = []
    for line in page:
        furniture = bool(line) and (_masked(line) in repeated or _PAGE_NUMBER.fullmatch(line) is not None)
        heading = bool(line) and not furniture and heading_level(line) > 0
        if piece and (not line or heading or _CAPTION.match(line)):
            yield _kind(piece), piece
            piece = []
        if furniture or heading:
            yield ("furniture" if furniture else "heading"), [line]
        elif line:
            piece.append(line)
            if len(line) < full and _SENTENCE_END.search(line):
                yield _kind(piece), piece
                piece = []
    if piece:
        yield _kind(piece), piece


def _kind(lines: Sequence[str]) -> Kind:
    text = "".join(lines)
    if _CAPTION.match(text):
        return "caption"
    letters = sum(char.isalpha() for char in text)
    return "paragraph" if letters >= _LETTERS * len(text) and len(text) > 3 else "table"


def _continues(before: Block, block: Block) -> bool:
    """A sentence goes on over a page or column."""
    if before.kind != "paragraph" or block.kind != "paragraph":
        return False
    return not _SENTENCE_END.search(before.text) and (block.text[:1].islower() or before.text.endswith("-"))


def _join(lines: Sequence[str]) -> str:
    """One line; a word broken at a line's end is mended where a small letter follows a letter and the hyphen."""
    text = ""
    for line in lines:
        broken = text.endswith("-") and text[-2:-1].isalpha() and line[:1].islower()
        text = text[:-1] + line if broken else f"{text} {line}".lstrip()
    return text
