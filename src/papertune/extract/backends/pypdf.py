"""pypdf: pure Python, slow, and hard to kill. Text in the order of the page's drawing, without boxes."""

from __future__ import annotations

import logging
from pathlib import Path

from pypdf import PdfReader, apply_configuration
from pypdf.errors import DependencyError, PyPdfError

from papertune.extract.backend import Damaged, NeedsPassword, Options
from papertune.extract.plain import document_of_pages
from papertune.records import Document

MOST_UNPACKED = 16 << 20
"""Bytes of a stream. pypdf gives up a page after two million operands and operators, which are fewer bytes than these, but three seconds."""


class PyPdf:
    name = "pypdf"

    def read(self, path: Path) -> Document:
        """Raises NeedsPassword, Damaged, NoTextLayer or PartlyRead."""
        with apply_configuration(zlib_maximum_output_length=MOST_UNPACKED, array_based_stream_maximum_output_length=MOST_UNPACKED):
            return self._read(path)

    def _read(self, path: Path) -> Document:
        try:
            reader = PdfReader(path)
            if reader.is_encrypted and not reader.decrypt(""):
                raise NeedsPassword("the empty password does not open it")
            count = len(reader.pages)
        except DependencyError as error:
            raise NeedsPassword(f"encrypted in a way that needs another library: {error}") from error
        except (PyPdfError, RecursionError) as error:
            raise Damaged(f"{type(error).__name__}: {error}") from error
        pages, failed = [], []
        for index in range(count):
            try:
                pages.append(reader.pages[index].extract_text())
            except MemoryError:
                raise
            except Exception as error:  # the parser meets what no one foresaw; the other pages are still good
                pages.append("")
                failed.append(f"page {index + 1}: {type(error).__name__}: {error}")
        return document_of_pages(self.name, pages, failed)


def open_backend(_options: Options) -> PyPdf:
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every font it guesses at, by the page
    return PyPdf()
