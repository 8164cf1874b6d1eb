"""What a heading's words say, for backends that give text without our geometry."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import replace

from papertune.records import Block, Kind

_NUMBERED = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,3})\.?\s+[A-Z][^.!?]{2,80}")
_NAMED = re.compile(
    r"(abstract|summary|introduction|background|(materials? and )?methods|results( and discussion)?|discussion|conclusions?"
    r"|acknowledge?ments?|references( and notes)?|bibliography|literature cited|works cited|appendix)",
    re.IGNORECASE,
)
_REFERENCES = re.compile(r"(references?|bibliography|literature( cited)?|works cited|references and notes)", re.IGNORECASE)
_BACK = re.compile(
    r"(acknowledge?ments?|funding|author contributions|competing interests|conflicts? of interest|data availability|abbreviations)( \w+)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"^\W*(?:\d{1,2}(?:\.\d{1,2})*\.?\s+)?")


def heading_level(line: str) -> int:
    """The depth of a heading that stands on a line by itself: 1 for a section; 0 when the line is none."""
    if numbered := _NUMBERED.fullmatch(line):
        return numbered[1].count(".") + 1
    return 1 if _NAMED.fullmatch(line.rstrip(".: ")) else 0


def mark_references(blocks: Iterable[Block], pages: Container[int] | None = None) -> tuple[Block, ...]:
    """Paragraphs under a heading of references become references, those under acknowledgements and the like back matter, headings too.
    The next heading of another kind ends them. With ``pages``, blocks that begin on others are known to be what they are."""
    marked = []
    under: Kind | None = None
    for block in blocks:
        if pages is not None and block.places[0].page not in pages:
            if block.kind in ("heading", "paragraph", "reference", "back"):
                under = block.kind if block.kind in ("reference", "back") else None
        elif block.kind == "heading":
            name = _NUMBER.sub("", block.text).rstrip(".: ")
            under = "reference" if _REFERENCES.fullmatch(name) else "back" if _BACK.fullmatch(name) else None
            if under is not None:
                block = replace(block, kind=under, level=0)
        elif block.kind == "paragraph" and under is not None:
            block = replace(block, kind=under)
        marked.append(block)
    return tuple(marked)
