"""pdfplumber: the specification's fallback, the last in the chain. Pure Python on pdfminer.six."""

from __future__ import annotations

import logging
from pathlib import Path

import pdfplumber
from pdfminer.pdfdocument import PDFEncryptionError, PDFPasswordIncorrect
from pdfplumber.utils.exceptions import PdfminerException

from papertune.extract.backend import Damaged, NeedsPassword, Options
from papertune.extract.plain import document_of_pages
from papertune.records import Document

_WORD_GAP = 0.15
"""Gap between two words, as a share of the letter's height. The default, 3 points, runs the words of small print together."""


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
        with pdf:
            try:
                count = len(pdf.pages)
            except (PdfminerException, RecursionError) as error:
                raise Damaged(f"{type(error).__name__}: {error}") from error
            pages, failed = [], []
            for index in range(count):
                page = pdf.pages[index]
                try:
                    pages.append(page.extract_text(x_tolerance_ratio=_WORD_GAP) or "")
                except MemoryError:
                    raise
                except Exception as error:  # the parser meets what no one foresaw; the other pages are still good
                    pages.append("")
                    failed.append(f"page {index + 1}: {type(error).__name__}: {error}")
                page.close()  # drops its cache of characters
        return document_of_pages(self.name, pages, failed)


def open_backend(_options: Options) -> PdfPlumber:
    logging.getLogger("pdfminer").setLevel(logging.ERROR)  # it warns of every font it guesses at, by the page
    return PdfPlumber()
