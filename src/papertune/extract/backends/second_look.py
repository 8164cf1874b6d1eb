"""The fast engine's reading of a PDF, with the pages it cannot be believed on read by engines with models: recognised text in place of what
cannot be read, Docling's blocks in place of what it is not sure of (``doubt``). All other pages stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from papertune.extract.backend import Options, PartlyRead
from papertune.extract.backends.fast import pages_of
from papertune.extract.doubt import unread_pages, unsure_pages
from papertune.extract.layout import lay_out
from papertune.extract.sections import mark_references
from papertune.records import Block, Document

if TYPE_CHECKING:
    from papertune.extract.backends.docling import Docling
    from papertune.extract.backends.ocr import Ocr


class SecondLook:
    name = "fast"

    def __init__(self, options: Options) -> None:
        self._options = options

    @cached_property
    def _docling(self) -> Docling:
        from papertune.extract.backends.docling import Docling

        return Docling(self._options)

    @cached_property
    def _ocr(self) -> Ocr:
        from papertune.extract.backends.ocr import Ocr

        return Ocr()

    def read(self, path: Path) -> Document:
        """``engine`` of the document names who had a part in it: "fast+docling". Raises as ``Fast`` and the others do."""
        pages, count = pages_of(path)
        engines = [self.name]
        unread = unread_pages(pages)
        if unread and "ocr" in self._options.looks:
            recognised = {page.number: page for page in self._ocr.pages(path, unread)}
            pages = [recognised.get(page.number, page) for page in pages]
            engines.append("ocr")
            unread = ()
        layout = lay_out(pages)
        instead: dict[int, list[Block]] = {}
        unsure = unsure_pages(layout)
        if unsure and "docling" in self._options.looks:
            instead = {page: [] for page in unsure}
            for first, last in _runs(unsure):
                for block in self._docling.read_pages(path, first, last):
                    if block.places:  # one that goes on over a page belongs to where it begins; one that is nowhere on the paper is no text of it
                        instead[block.places[0].page].append(block)
            engines.append("docling")
            unsure = ()
        blocks = mark_references(layout.blocks(instead), pages=instead)
        document = Document("", "", "+".join(engines), count, blocks, unread, unsure)
        if len(pages) < count:
            raise PartlyRead(f"{count - len(pages)} of {count} pages could not be read", document)
        return document


def _runs(pages: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive pages."""
    for _, run in groupby(enumerate(pages), lambda pair: pair[1] - pair[0]):
        numbers = [page for _, page in run]
        yield numbers[0], numbers[-1]


def open_backend(options: Options) -> SecondLook:
    return SecondLook(options)
