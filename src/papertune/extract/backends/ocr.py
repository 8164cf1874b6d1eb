"""RapidOCR on pages rendered by pdfium, for scans. Its models are inside its package, so nothing is downloaded; the layout is ours.

A line of text that was recognised becomes one span. Its font size is guessed from the height of its box, which also depends on the letters that
happen to stand in it: lines near the page's usual height are taken to be of the usual size. A model runs on one thread, as there is a worker
for each core.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import pypdfium2 as pdfium
from rapidocr import RapidOCR

from papertune.extract.backend import Damaged, NeedsPassword, NoTextLayer, Options, PartlyRead
from papertune.extract.layout import blocks_of
from papertune.extract.layout.lines import Page, Span
from papertune.records import Document

DOTS = 200  # an inch; below 150 small print is lost, above 250 nothing is won
MOST_PIXELS = 4000  # of a page's longer side: a poster is rendered coarser

SIZE, MIDDLE = 0.75, 0.25  # font size, and how far the baseline is below the middle, as shares of the recognised box, which has a margin
LEAST, MOST = 0.75, 1.3  # heights that count as usual, as shares of the page's median
ACROSS = 1.5  # a box this much higher than wide, with more than a few letters, is text at an angle


class Ocr:
    name = "ocr"

    def __init__(self) -> None:
        logging.getLogger("RapidOCR").setLevel(logging.ERROR)
        self._engine = RapidOCR(params={"EngineConfig.onnxruntime.intra_op_num_threads": 1, "Global.log_level": "error"})

    def read(self, path: Path) -> Document:
        """Raises NeedsPassword, Damaged, NoTextLayer or PartlyRead."""
        document = _open(path)
        pages, broken, count = [], [], len(document)
        for index in range(count):
            try:
                pages.append(self._page(document, index))
            except pdfium.PdfiumError:
                broken.append(index + 1)
        document.close()
        if not any(page.upright for page in pages):
            raise Damaged("no page could be rendered") if broken and not pages else NoTextLayer(f"{count} pages without anything recognised as text")
        result = Document("", "", self.name, count, tuple(blocks_of(pages)))
        if broken:
            raise PartlyRead(f"{len(broken)} of {count} pages could not be rendered, the first of them page {broken[0]}", result)
        return result

    def pages(self, path: Path, numbers: Iterable[int]) -> list[Page]:
        """Some pages, counted from 1. Raises NeedsPassword, or Damaged when one of them cannot be rendered."""
        document = _open(path)
        try:
            return [self._page(document, number - 1) for number in numbers]
        except pdfium.PdfiumError as error:
            raise Damaged(str(error)) from error
        finally:
            document.close()

    def _page(self, document: pdfium.PdfDocument, index: int) -> Page:
        source = document[index]
        width, height = source.get_size()
        scale = min(DOTS / 72, MOST_PIXELS / max(width, height, 1))
        bitmap = source.render(scale=scale, rev_byteorder=False)
        found = self._engine(bitmap.to_numpy()[:, :, :3])
        bitmap.close()
        source.close()
        page = Page(index + 1, width, height)
        if found.boxes is None:
            return page
        boxes = [[*(corners.min(axis=0) / scale).tolist(), *(corners.max(axis=0) / scale).tolist()] for corners in found.boxes]
        usual = median(bottom - top for _, top, _, bottom in boxes)
        for (left, top, right, bottom), text in zip(boxes, found.txts, strict=True):
            across = len(text) > 3 and bottom - top > ACROSS * (right - left)
            high = right - left if across else bottom - top
            high = usual if LEAST * usual < high < MOST * usual else high
            baseline = (top + bottom) / 2 + MIDDLE * high
            text = unicodedata.normalize("NFC", text.strip())
            if text:
                (page.rotated if across else page.upright).append(Span(text, left, right, baseline, SIZE * high, space=True))
        return page


def _open(path: Path) -> pdfium.PdfDocument:
    try:
        return pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        if error.err_code == pdfium.raw.FPDF_ERR_PASSWORD:
            raise NeedsPassword(str(error)) from error
        raise Damaged(str(error)) from error


def open_backend(_options: Options) -> Ocr:
    return Ocr()
