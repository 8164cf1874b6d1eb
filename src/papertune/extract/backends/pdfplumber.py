"""pdfplumber: the specification's fallback, the last in the chain. Words by pdfminer.six in pure Python, then our own layout.

Its own text (``extract_text``) runs the columns of a page together; words with their boxes and fonts are all that is taken from it.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pdfplumber
from pdfminer.pdfdocument import PDFEncryptionError, PDFPasswordIncorrect
from pdfplumber.page import Page as Source
from pdfplumber.utils.exceptions import PdfminerException

from papertune.extract.backend import Damaged, NeedsPassword, NoTextLayer, Options, PartlyRead
from papertune.extract.layout import blocks_of
from papertune.extract.layout.lines import Page, Span
from papertune.records import Document

WORD_GAP = 0.15
"""Gap between two words, as a share of the letter's height. The default, 3 points, runs the words of small print together."""

_BOLD = re.compile(r"bold|black|heavy|demi", re.IGNORECASE)
_ITALIC = re.compile(r"ital|obli|slant", re.IGNORECASE)


class PdfPlumber:
    name = "pdfplumber"

    def read(self, path: Path) -> Document:
        """Raises NeedsPassword, Damaged, NoTextLayer or PartlyRead."""
        try:
            pdf = pdfplumber.open(path)
        except PdfminerException as error:
            cause = error.args[0] if error.args else error
            if isinstance(cause, PDFPasswordIncorrect | PDFEncryptionError):
                raise NeedsPassword("the empty password does not open it") from error
            raise Damaged(f"{type(cause).__name__}: {cause}") from error
        pages, failed = [], []
        with pdf:
            try:
                sources = pdf.pages
            except (PdfminerException, RecursionError) as error:
                raise Damaged(f"{type(error).__name__}: {error}") from error
            for source in sources:
                try:
                    pages.append(_page(source))
                except MemoryError:
                    raise
                except Exception as error:  # the parser meets what no one foresaw; the other pages are still good
                    failed.append(f"page {source.page_number}: {type(error).__name__}: {error}")
                source.close()  # drops its cache of characters
            count = len(sources)
        if not any(page.upright or page.rotated for page in pages):
            if failed:
                raise Damaged(failed[0])
            raise NoTextLayer(f"{count} pages without text")
        document = Document("", "", self.name, count, tuple(blocks_of(pages)))
        if failed:
            raise PartlyRead(f"{len(failed)} of {count} pages are missing; {failed[0]}", document)
        return document


def _page(source: Source) -> Page:
    """Each word as a span, in the order of the file. pdfminer's boxes reach from the font's descent up; its matrix has the baseline."""
    page = Page(source.page_number, float(source.width), float(source.height))
    for word in source.extract_words(x_tolerance_ratio=WORD_GAP, use_text_flow=True, extra_attrs=["fontname"], return_chars=True):
        first, font = word["chars"][0], word["fontname"].rpartition("+")[2]
        baseline = first["bottom"] - (first["matrix"][5] - first["y0"])
        bold, italic = _BOLD.search(font) is not None, _ITALIC.search(font) is not None
        span = Span(word["text"], word["x0"], word["x1"], baseline, first["size"], font, bold, italic, space=True)
        (page.upright if first["upright"] else page.rotated).append(span)
    return page


def open_backend(_options: Options) -> PdfPlumber:
    logging.getLogger("pdfminer").setLevel(logging.ERROR)  # it warns of every font it guesses at, by the page
    return PdfPlumber()
