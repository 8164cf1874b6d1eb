"""The ``fast`` engine: characters and fonts from pdfium, everything else from our own layout.

pdfium tells for each character which text object drew it. Calls into it cost about a microsecond, more than our whole work on a character,
so the page's text is fetched at once, the bounds of each object are found in strides, and only its first and last characters are measured.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from math import hypot
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from papertune.extract.backend import Damaged, NeedsPassword, NotPdf, NoTextLayer, Options, PartlyRead
from papertune.extract.layout import blocks_of
from papertune.extract.layout.lines import Page, Span
from papertune.records import Document

BOLD = re.compile(r"bold|black|heavy|semibold|demi|[-.,]B(I|$)|CMBX|MTSYB", re.I)
ITALIC = re.compile(r"ital|obli|slant|[-.,](B?I|It)($|\W)|CMTI|CMMI", re.I)
FORCED_BOLD, ITALIC_FLAG = 1 << 18, 1 << 6  # font descriptor flags, ISO 32000-1 table 123
HEADER_WITHIN = 1024  # bytes at the start among which "%PDF-" must stand, as in Acrobat
STRIDE = 12  # characters; about the length of a text object

# A run is taken apart where its characters stand wider than this, in font sizes a character, and at gaps wider than WIDE_GAP.
WIDE_RUN, WIDE_GAP = 0.72, 1.2


class Fast:
    name = "fast"

    def read(self, path: Path) -> Document:
        with path.open("rb") as file:
            if b"%PDF-" not in file.read(HEADER_WITHIN):
                raise NotPdf("no %PDF- header")
        pages: list[Page] = []
        broken: list[int] = []
        document = _open(path)
        try:
            count = len(document)
            for index in range(count):
                page = _read_page(document, index)
                if page is None:
                    broken.append(index + 1)
                else:
                    pages.append(page)
        finally:
            document.close()
        if not pages:
            raise Damaged("no page could be read")
        if not any(page.upright or page.rotated for page in pages):
            raise NoTextLayer(f"{count} pages without text")
        result = Document(source="", sha256="", engine=self.name, pages=count, blocks=tuple(blocks_of(pages)))
        if broken:
            raise PartlyRead(f"{len(broken)} of {count} pages could not be read, the first of them page {broken[0]}", result)
        return result


def open_backend(_options: Options) -> Fast:
    return Fast()


def _open(path: Path) -> pdfium.PdfDocument:
    try:
        return pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        if error.err_code == raw.FPDF_ERR_PASSWORD:
            raise NeedsPassword(str(error)) from error
        raise Damaged(str(error)) from error


def _read_page(document: pdfium.PdfDocument, index: int) -> Page | None:
    """The page's spans; None when pdfium cannot load it."""
    handle = raw.FPDF_LoadPage(document.raw, index)
    if not handle:
        return None
    try:
        text = raw.FPDFText_LoadPage(handle)
        if not text:
            return None
        try:
            page = Page(index + 1, raw.FPDF_GetPageWidthF(handle), raw.FPDF_GetPageHeightF(handle))
            _TextPage(handle, text, page).read()
            return page
        finally:
            raw.FPDFText_ClosePage(text)
    finally:
        raw.FPDF_ClosePage(handle)


class _TextPage:
    """Turns one pdfium text page into spans. Holds the buffers that pdfium writes into."""

    def __init__(self, handle: raw.FPDF_PAGE, text: raw.FPDF_TEXTPAGE, page: Page) -> None:
        self.text = text
        self.page = page
        self.count = max(0, raw.FPDFText_CountChars(text))
        self.fonts: dict[int, tuple[str, bool, bool]] = {}
        self.matrix, self.box = raw.FS_MATRIX(), raw.FS_RECTF()
        self.x, self.y = ctypes.c_double(), ctypes.c_double()
        found = raw.FPDF_GetPageBoundingBox(handle, self.box)
        crop = (self.box.left, self.box.top, self.box.right, self.box.bottom) if found else (0.0, page.height, page.width, 0.0)
        # pdfium's text coordinates ignore the page's own rotation: x' = xx * x + xy * y + x0 and y' = yx * x + yy * y + y0 undo it.
        left, top, right, bottom = crop
        self.turn = {
            0: (1, 0, -left, 0, -1, top),
            1: (0, 1, -bottom, 1, 0, -left),
            2: (-1, 0, right, 0, 1, -bottom),
            3: (0, -1, top, -1, 0, right),
        }[raw.FPDFPage_GetRotation(handle) % 4]

    def read(self) -> None:
        characters = self._characters()
        for start, end in self._runs():
            space = characters[end : end + 1].isspace()
            for first, last in self._pieces(characters, start, end):
                self._add(characters[first:last], first, last - 1, space or last < end)

    def _characters(self) -> str:
        """All characters, one for each of pdfium's indices."""
        buffer = (ctypes.c_ushort * (self.count + 1))()
        written = raw.FPDFText_GetText(self.text, 0, self.count, buffer) - 1
        units = bytes(buffer)[: 2 * max(0, written)].decode("utf-16-le", "surrogatepass")
        if len(units) == self.count:
            return units
        return "".join(chr(raw.FPDFText_GetUnicode(self.text, index)) for index in range(self.count))

    def _object(self, index: int) -> int | None:
        return ctypes.cast(raw.FPDFText_GetTextObject(self.text, index), ctypes.c_void_p).value

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Bounds of the characters drawn by each text object; those that belong to none were made up by pdfium: spaces and line ends."""
        start = 0
        while start < self.count:
            drawn_by = self._object(start)
            end = start + 1
            step = STRIDE
            while step:
                if end + step - 1 < self.count and self._object(end + step - 1) == drawn_by:
                    end += step
                else:
                    step //= 2
            if drawn_by is not None:
                yield start, end
            start = end

    def _pieces(self, characters: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The run, or its parts where one text object draws several cells of a table or lines of two columns."""
        if end - start > 1:
            left, right, size = self._left(start), self._right(end - 1), self._size(start)
            if right - left > WIDE_RUN * size * (end - start):
                previous = start
                for index in range(start + 1, end):
                    if not characters[index].isspace() and characters[index - 1].isspace() and self._gap(characters, index) > WIDE_GAP * size:
                        yield previous, index
                        previous = index
                yield previous, end
                return
        yield start, end

    def _gap(self, characters: str, index: int) -> float:
        """White space before the character."""
        before = index - 1
        while before and characters[before].isspace():
            before -= 1
        return self._left(index) - self._right(before)

    def _left(self, index: int) -> float:
        return self._start(index)[0]

    def _start(self, index: int) -> tuple[float, float]:
        """Where the character's baseline begins, in our coordinates."""
        raw.FPDFText_GetCharOrigin(self.text, index, self.x, self.y)
        return self._turned(self.x.value, self.y.value)

    def _right(self, index: int) -> float:
        box = self.box
        raw.FPDFText_GetLooseCharBox(self.text, index, box)
        return max(self._turned(box.left, box.bottom)[0], self._turned(box.right, box.top)[0])

    def _turned(self, x: float, y: float) -> tuple[float, float]:
        xx, xy, x0, yx, yy, y0 = self.turn
        return xx * x + xy * y + x0, yx * x + yy * y + y0

    def _size(self, index: int) -> float:
        raw.FPDFText_GetMatrix(self.text, index, self.matrix)
        return float(raw.FPDFText_GetFontSize(self.text, index)) * hypot(self.matrix.c, self.matrix.d)

    def _add(self, text: str, first: int, last: int, space: bool) -> None:
        size = self._size(first)
        if not text.strip() or size <= 0:
            return
        font, bold, italic = self._font(first)
        xx, xy, _, yx, yy, _ = self.turn
        along = xx * self.matrix.a + xy * self.matrix.b
        upright = along > 0 and abs(yx * self.matrix.a + yy * self.matrix.b) < 0.1 * along
        left, baseline = self._start(first)
        span = Span(text, left, self._right(last), baseline, size, font, bold, italic, space)
        (self.page.upright if upright else self.page.rotated).append(span)

    def _font(self, index: int) -> tuple[str, bool, bool]:
        """Name without its subset tag, and whether it is bold and italic."""
        font = raw.FPDFTextObj_GetFont(raw.FPDFText_GetTextObject(self.text, index))
        key = ctypes.cast(font, ctypes.c_void_p).value or 0
        if key not in self.fonts:
            length = raw.FPDFFont_GetBaseFontName(font, None, 0)
            buffer = ctypes.create_string_buffer(max(1, length))
            raw.FPDFFont_GetBaseFontName(font, buffer, length)
            name = re.sub(r"^[A-Z]{6}\+", "", buffer.value.decode("utf-8", "replace"))
            flags = max(0, raw.FPDFFont_GetFlags(font))
            self.fonts[key] = (name, bool(BOLD.search(name) or flags & FORCED_BOLD), bool(ITALIC.search(name) or flags & ITALIC_FLAG))
        return self.fonts[key]
