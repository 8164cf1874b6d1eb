"""One XHTML chapter to blocks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser

from papertune.records import Block, Kind

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BREAKS = {  # elements that begin and end a block
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "footer", "header",
    "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table", "ul", *_HEADINGS,
}  # fmt: skip
_SPACES = {"br", "td", "th", "tr"}  # cells of a table stay in one block
_SILENT = {"head", "script", "style", "svg", "template", "object", "audio", "video", "rt", "rp"}
_EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_BY_TAG: dict[str, Kind] = {"figcaption": "caption", "caption": "caption", "table": "table", "nav": "furniture"}
_BY_TYPE: dict[str, Kind] = {  # epub:type and role, https://www.w3.org/TR/epub-ssv-11/
    "footnote": "footnote", "endnote": "footnote", "footnotes": "footnote", "endnotes": "footnote", "rearnote": "footnote", "rearnotes": "footnote",
    "doc-footnote": "footnote", "doc-endnote": "footnote", "doc-endnotes": "footnote", "bibliography": "reference", "doc-bibliography": "reference",
    "biblioentry": "reference", "doc-biblioentry": "reference", "toc": "furniture",
    "doc-toc": "furniture", "landmarks": "furniture", "page-list": "furniture", "index": "back", "doc-index": "back", "copyright-page": "back",
    "acknowledgments": "back", "doc-acknowledgments": "back",
}  # fmt: skip
_SILENT_TYPES = {"noteref", "doc-noteref", "pagebreak", "doc-pagebreak"}  # numbers in the midst of sentences
_DECLARED = re.compile(rb"<\?xml[^>]{0,200}?encoding=[\"']([A-Za-z0-9._-]{1,40})[\"']")
_DEEPEST = 256  # open elements; more are not prose, and would only slow the reading


def blocks_of_chapter(data: bytes, *, linear: bool) -> Iterator[Block]:
    """The chapter's blocks in order. What is not on the main line (``linear``) is back matter, but for its notes."""
    reader = _Reader()
    reader.feed(_decode(data))
    reader.close()
    reader.flush()
    for block in reader.blocks:
        running = block.kind in ("heading", "paragraph")
        yield block if linear or not running else Block("back", block.text)


def _decode(data: bytes) -> str:
    """By its mark, else its XML declaration, else UTF-8; what does not decode is replaced."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    declared = _DECLARED.match(data.removeprefix(b"\xef\xbb\xbf").lstrip())
    try:
        return data.decode(declared[1].decode() if declared else "utf-8", "replace").removeprefix("\ufeff")
    except LookupError:
        return data.decode("utf-8", "replace").removeprefix("\ufeff")


class _Reader(HTMLParser):
    """Gathers text until an element begins or ends a block. ``_open`` are the open elements, each with the kind it gives to what is inside;
    a heading also gives its level."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._open: list[tuple[str, Kind | None, bool]] = []
        self._text: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        tag = tag.rpartition(":")[2]
        given = {name: value or "" for name, value in attributes}
        types = f"{given.get('epub:type', '')} {given.get('role', '')}".split()
        kind = next((_BY_TYPE[name] for name in types if name in _BY_TYPE), None) or _BY_TAG.get(tag)
        if tag == "math" and given.get("display") == "block":
            kind = "formula"
        if kind is not None or tag in _BREAKS:
            self.flush()
        elif tag in _SPACES:
            self._text.append(" ")
        if tag in _EMPTY or len(self._open) >= _DEEPEST:
            return
        silent = tag in _SILENT or not _SILENT_TYPES.isdisjoint(types)
        self._open.append((tag, kind, silent))
        self._silent += silent

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in _EMPTY:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """Closes the element and what was left open in it; an end without a beginning says nothing."""
        tag = tag.rpartition(":")[2]
        if not any(name == tag for name, _, _ in reversed(self._open)):
            return
        while True:
            name, kind, silent = self._open[-1]
            if kind is not None or name in _BREAKS:
                self.flush()
            self._open.pop()
            self._silent -= silent
            if name == tag:
                return

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._text.append(data)

    def flush(self) -> None:
        text = unicodedata.normalize("NFC", " ".join("".join(self._text).replace("\u00ad", "").split()))
        self._text.clear()
        if not text:
            return
        given = next((kind for _, kind, _ in reversed(self._open) if kind is not None), None)
        level = next((_HEADINGS[tag] for tag, _, _ in reversed(self._open) if tag in _HEADINGS), 0)
        if given is None and level:
            self.blocks.append(Block("heading", text, level=level))
        else:
            self.blocks.append(Block(given or "paragraph", text))
