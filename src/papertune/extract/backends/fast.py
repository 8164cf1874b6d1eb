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

from papertune.extract.backend import Damaged, NeedsPassword, NoTextLayer, NotPdf, Options, PartlyRead
from papertune.extract.doubt import unread_pages, unsure_pages
from papertune.extract.layout import lay_out
from papertune.extract.layout.lines import Page, Span
from papertune.records import Document

BOLD = re.compile(r"bold|black|heavy|demi|[-.,]B(I|$)|-(Bd|Hv|Blk)|-Medi($|Ital)|CM(SS)?BX|SFBX|CMB\d|MTSYB", re.I)
ITALIC = re.compile(r"[Ii]tal|ITAL|[Oo]bli|[Ss]lant|[-.,](B?I|It)($|\W)|[a-z]It$|CMTI|CMMI|CMSL|SFTI|SFSL")
SUBSET_TAG = re.compile(r"[A-Z]{6}\+|(?:[A-Z][a-z]{5})+(?=Adv)")  # ISO 32000-1, 9.6.4; and as a large typesetter writes it, another on each page
FONT_PART = re.compile(r"\+[0-9a-f]{2}$|(?<=[a-z]{3})\d$")  # what is left of a font split into several: "AdvTT86d47313+20", "MinionPro-Regular2"
SURROGATES = re.compile(r"[\ud800-\udfff]")
FORCED_BOLD, ITALIC_FLAG = 1 << 18, 1 << 6  # font descriptor flags, ISO 32000-1 table 123
HEADER_WITHIN = 1024  # bytes at the start among which "%PDF-" must stand, as in Acrobat
STRIDE = 12  # characters; about the length of a text object
MOST_STAMP = 100  # characters on a scanned page: "Downloaded from ... on ...", a page number
MOST_OBJECTS = 1000  # of such a page that are looked at: a scan has one picture, or some strips

# A run is taken apart where its characters stand wider than this, in font sizes a character, and at gaps wider than WIDE_GAP.
WIDE_RUN, WIDE_GAP = 0.72, 1.2

# The same functions as in ``raw``, returning addresses: making a typed pointer and taking it apart costs thrice the call.
_text_object = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)(ctypes.cast(raw.FPDFText_GetTextObject, ctypes.c_void_p).value or 0)
_page_object = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)(ctypes.cast(raw.FPDFPage_GetObject, ctypes.c_void_p).value or 0)
_font_of = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(ctypes.cast(raw.FPDFTextObj_GetFont, ctypes.c_void_p).value or 0)


class Fast:
    name = "fast"

    def read(self, path: Path) -> Document:
        """Raises NotPdf, NeedsPassword, Damaged, NoTextLayer or PartlyRead."""
        pages, count = pages_of(path)
        if not pages:
            raise Damaged("no page could be read")
        if not any(page.upright or page.rotated for page in pages):
            raise NoTextLayer(f"{count} pages without text")
        layout = lay_out(pages)
        document = Document("", "", self.name, count, tuple(layout.blocks()), unread_pages(pages), unsure_pages(layout))
        if len(pages) < count:
            raise PartlyRead(f"{count - len(pages)} of {count} pages could not be read", document)
        return document


def open_backend(_options: Options) -> Fast:
    return Fast()


def pages_of(path: Path) -> tuple[list[Page], int]:
    """The pages that can be read, and how many the document has."""
    with path.open("rb") as file:
        if b"%PDF-" not in file.read(HEADER_WITHIN):
            raise NotPdf("no %PDF- header")
    document = _open(path)
    try:
        pages = [_read_page(document, index) for index in range(len(document))]
        return [page for page in pages if page is not None], len(pages)
    finally:
        document.close()


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
            page.picture = _is_picture(handle, page)
            return page
        finally:
            raw.FPDFText_ClosePage(text)
    finally:
        raw.FPDF_ClosePage(handle)


def _is_picture(handle: raw.FPDF_PAGE, page: Page) -> bool:
    """Whether pictures cover more than half of the page, and hardly any text is on it. Areas alone are compared, so its rotation does not matter."""
    if sum(len(span.text) for span in [*page.upright, *page.rotated]) > MOST_STAMP:
        return False
    covered, edges = 0.0, [ctypes.c_float() for _ in range(4)]
    for index in range(min(raw.FPDFPage_CountObjects(handle), MOST_OBJECTS)):
        drawn = raw.FPDFPage_GetObject(handle, index)
        if raw.FPDFPageObj_GetType(drawn) == raw.FPDF_PAGEOBJ_IMAGE and raw.FPDFPageObj_GetBounds(drawn, *edges):
            left, bottom, right, top = (edge.value for edge in edges)
            covered += (right - left) * (top - bottom)
    return covered > 0.5 * page.width * page.height


class _TextPage:
    """Turns one pdfium text page into spans. Holds the buffers that pdfium writes into."""

    def __init__(self, handle: raw.FPDF_PAGE, text: raw.FPDF_TEXTPAGE, page: Page) -> None:
        self.text = text
        self.page = page
        self.count = max(0, raw.FPDFText_CountChars(text))
        self.fonts: dict[int, tuple[str, bool, bool]] = {}
        self.matrix, self.box = raw.FS_MATRIX(), raw.FS_RECTF()
        self.x, self.y = ctypes.c_double(), ctypes.c_double()
        # Text outside of these is drawn by a form, as pictures are.
        self.top_level = {_page_object(handle, index) for index in range(raw.FPDFPage_CountObjects(handle))}
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
        for start, end, drawn_by in self._runs():
            if characters[start:end].isspace():
                continue
            size = self._size(start)
            if size <= 0:
                continue
            left, baseline = self._start(start)
            right = self._right(end - 1)
            space = characters[end : end + 1].isspace()
            if right - left < WIDE_RUN * size * (end - start):
                self._add(drawn_by, characters[start:end], left, right, baseline, size, space)
            else:
                for first, last in self._pieces(characters, start, end, size):
                    self._add(drawn_by, characters[first:last], self._left(first), self._right(last - 1), baseline, size, space or last < end)

    def _characters(self) -> str:
        """All characters, one for each of pdfium's indices."""
        buffer = (ctypes.c_ushort * (self.count + 1))()
        written = raw.FPDFText_GetText(self.text, 0, self.count, buffer) - 1
        units = bytes(buffer)[: 2 * max(0, written)].decode("utf-16-le", "surrogatepass")
        if len(units) == self.count:
            return units
        return "".join(chr(raw.FPDFText_GetUnicode(self.text, index)) for index in range(self.count))

    def _runs(self) -> Iterator[tuple[int, int, int]]:
        """Bounds of the characters drawn by each text object, and its address. What no object drew was made up by pdfium: spaces and line ends."""
        text, count, start = self.text, self.count, 0
        while start < count:
            drawn_by = _text_object(text, start)
            end = start + 1
            step = STRIDE if drawn_by is not None else 0
            while step:
                if end + step <= count and _text_object(text, end + step - 1) == drawn_by:
                    end += step
                else:
                    step //= 2
            if drawn_by is not None:
                yield start, end, drawn_by
            start = end

    def _pieces(self, characters: str, start: int, end: int, size: float) -> Iterator[tuple[int, int]]:
        """The parts of a run that draws several cells of a table or lines of two columns."""
        previous = start
        for index in range(start + 1, end):
            if not characters[index].isspace() and characters[index - 1].isspace() and self._gap(characters, index) > WIDE_GAP * size:
                yield previous, index
                previous = index
        yield previous, end

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

    def _add(self, drawn_by: int, text: str, left: float, right: float, baseline: float, size: float, space: bool) -> None:
        if not text.strip():
            return
        if SURROGATES.search(text):  # a character beyond U+FFFF has two of pdfium's indices
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        font, bold, italic = self._font(drawn_by)
        xx, xy, _, yx, yy, _ = self.turn
        matrix = self.matrix
        along = xx * matrix.a + xy * matrix.b
        upright = along > 0 and abs(yx * matrix.a + yy * matrix.b) < 0.1 * along
        span = Span(text, left, right, baseline, size, font, bold, italic, space, drawn_by not in self.top_level)
        (self.page.upright if upright else self.page.rotated).append(span)

    def _font(self, drawn_by: int) -> tuple[str, bool, bool]:
        """Name without its subset tag, and whether it is bold and italic."""
        key = _font_of(drawn_by) or 0
        if key not in self.fonts:
            font = ctypes.cast(key, raw.FPDF_FONT)
            length = raw.FPDFFont_GetBaseFontName(font, None, 0)
            buffer = ctypes.create_string_buffer(max(1, length))
            raw.FPDFFont_GetBaseFontName(font, buffer, length)
            name = buffer.value.decode("utf-8", "replace")
            if tag := SUBSET_TAG.match(name):
                name = name[tag.end() :]
            name = FONT_PART.sub("", name)
            flags = max(0, raw.FPDFFont_GetFlags(font))
            self.fonts[key] = (name, bool(BOLD.search(name) or flags & FORCED_BOLD), bool(ITALIC.search(name) or flags & ITALIC_FLAG))
        return self.fonts[key]
