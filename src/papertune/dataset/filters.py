"""Decides, paragraph by paragraph, what a paper has to teach. Every paragraph that is dropped has a reason, which the report counts.

Only what a paper shows by itself is judged here; what several papers share is the business of ``duplicates``.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from papertune.dataset.languages import language_of
from papertune.dataset.read import Block
from papertune.dataset.references import reference_blocks

REASONS = {
    "references": "reference lists that extraction left in",
    "notice": "licences, copyright and journal notices",
    "leftover": "page numbers, addresses, lines without a sentence",
    "garbled": "text that was not read right: glyph codes, spaced letters, columns of numbers",
    "language": "passages in another language than the paper",
    "boilerplate": "short paragraphs that stand in three papers or more",
    "repeated": "paragraphs that stand in an earlier paper already",
}

_NOTICES = (
    "creative commons", "access article", "all rights reserved", "©", "(c) 19", "(c) 20", "licensee ", "remains neutral with", "publisher's note",
    "publisher’s note", "downloaded from", "cite this article", "permits unrestricted", "for reprints", "for permissions",
)  # fmt: skip
_NOTICE_WORDS = 130  # a longer paragraph only mentions a licence
_LEFTOVER = re.compile(
    r"(?:page )?\d{1,5}(?: (?:of|/) \d{1,5})?|(?:https?://|www\.|doi:|10\.\d{4,}/)\S+|\S+@\S+\.\w+|[\W\d_]+|(?:table|fig(?:ure)?)\.? ?\w{1,4}[.:]?",
    re.IGNORECASE,
)
_GLYPHS = re.compile(r"\(cid:\d+\)|[\ufffd\ufffe\ue000-\uf8ff\x00-\x08\x0b\x0e-\x1f]")
_GLYPH_BYTES = (b"(cid:", b"\xee", b"\xef")  # one of them is in every glyph code, private or replacement character
_CONTROLS = bytes({*range(32)} - set(b"\t\n\r\f"))
_SPACED = re.compile(r"(?:\b\w ){6,}")
_LETTERS = bytes(c for c in range(128) if not chr(c).isalpha())
_LOOK = 20_000  # characters that tell a paper's language
_FEWEST_LETTERS = 0.55  # share of letters among the bytes: 0.75 to 0.83 in prose, 0.3 in tables of numbers
_MOST_GLYPHS = 0.005
_SENTENCE = 30  # characters from which a paragraph may do without a full stop
_WORD = 25.0  # mean length of words above which spaces are missing


@dataclass(slots=True)
class Sifted:
    """The blocks that stay, the paper's language ("" if unclear), and blocks and characters dropped by reason."""

    language: str
    blocks: list[Block] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)

    def drop(self, block: Block, reason: str) -> None:
        self.dropped[reason] += 1
        self.characters[reason] += len(block.text)


def sift(blocks: list[Block]) -> Sifted:
    """Paragraphs worth learning, with all headings but those of reference lists."""
    references = reference_blocks(blocks)
    text = "\n".join(b.text for k, b in enumerate(blocks) if not b.level and k not in references)
    judge = Judge(text)
    sifted = Sifted(judge.language)
    for k, block in enumerate(blocks):
        reason = "references" if k in references else "" if block.level else judge.why_not(block.text)
        if reason:
            sifted.drop(block, reason)
        else:
            sifted.blocks.append(block)
    return sifted


class Judge:
    """Judges the paragraphs of one paper. What nowhere stands in the paper is not looked for in each of them."""

    def __init__(self, paper: str) -> None:
        raw = paper.encode("utf-8", "replace")
        folded = raw.lower()  # of ASCII letters only, which is all that the notices have, and many times quicker than of a str
        self.language = language_of(paper[:_LOOK])
        self._notices = [words for words in _NOTICES if words.encode() in folded]
        self._glyphs = any(part in raw for part in _GLYPH_BYTES) or len(raw.translate(None, _CONTROLS)) < len(raw)

    def why_not(self, text: str) -> str:
        """The reason to drop a paragraph, "" for none."""
        if len(text) < 120 and _LEFTOVER.fullmatch(text):
            return "leftover"
        if len(text) < _SENTENCE and text[-1] not in ".?!:”\"')":
            return "leftover"
        if self._is_garbled(text):
            return "garbled"
        if self._notices and text.count(" ") < _NOTICE_WORDS and any(words in text.lower() for words in self._notices):
            return "notice"
        if self.language == "English" and " the " in text:
            return ""  # no other language has it; quicker than counting
        if self.language and len(text) > 200 and (language := language_of(text)) and language != self.language:
            return "language"
        return ""

    def _is_garbled(self, text: str) -> bool:
        raw = text.encode("utf-8", "replace")
        words = text.count(" ") + 1
        if len(raw.translate(None, _LETTERS)) < _FEWEST_LETTERS * len(raw):
            return True
        if len(text) > max(200, _WORD * words) and text.isascii():
            return True
        if self._glyphs and len(_GLYPHS.findall(text)) > _MOST_GLYPHS * len(text):
            return True
        return words > 0.3 * len(text) and sum(len(m[0]) for m in _SPACED.finditer(text)) > 0.2 * len(text)
