"""Files made to break readers of PDF and EPUB, each with the states it may end in.

``CORPUS`` maps a file name to a function that gives its bytes; ``PROMISED`` says how each ends. Where two states are named, which of them
depends on the machine's speed or on what the native library does with undefined input; in no case may the run stop or another file suffer.
Run ``python -m tests.hostile FOLDER`` to write them all.
"""

from __future__ import annotations

import io
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

PROSE = (
    "The willow stood by the water for two hundred years before anyone measured it. Its rings were counted in spring, when the sap had risen, and "
    "the count was repeated by three people who did not know of one another. They agreed within two years. The oldest wood was soft and dark, "
    "and gave no clear ring at all, so that the true age remains a guess."
)


# --- PDF -------------------------------------------------------------------------------------------------------------------------------------


def assemble(objects: Iterable[bytes], *, trailer: bytes = b"", root: int = 1) -> bytes:
    """A PDF file of these objects, numbered from 1, with a right cross-reference table."""
    out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(offsets) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root %d 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(offsets) + 1, root, trailer, start)
    return bytes(out)


def stream(data: bytes, extra: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n" % (len(data), extra) + data + b"\nendstream"


def drawing(text: str) -> bytes:
    """Page content that sets the text in lines of about 80 characters, 12 points."""
    words, lines = text.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 80:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    escaped = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)").encode("latin-1") for line in lines]
    return b"BT /F1 12 Tf 14 TL 72 720 Td " + b" ".join(b"(" + line + b") '" for line in escaped) + b" ET"


HEADING = b"BT /F1 18 Tf 72 750 Td (1 Introduction) Tj ET "  # so that the first page is not taken for title and authors
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


def pdf(*pages: str | bytes, box: bytes = b"0 0 612 792", trailer: bytes = b"", catalog: bytes = b"", resources: bytes = b"") -> bytes:
    """A plain PDF: objects 1 catalog, 2 page tree, 3 font, then a page and its content for each. ``str`` is text, ``bytes`` is content."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * k) for k in range(len(pages)))
    objects = [b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog, b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)), FONT]
    for k, page in enumerate(pages):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [%s] /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> %s >> >>" % (box, 5 + 2 * k, resources)
        )
        content = drawing(page) if isinstance(page, str) else page
        objects.append(stream(HEADING + content if k == 0 and content else content))
    return assemble(objects, trailer=trailer)


def paper(seed: int, pages: int = 2) -> bytes:
    """A good paper, unlike that of any other seed."""
    chance = random.Random(seed)
    words = PROSE.split()
    texts = []
    for _ in range(pages):
        chance.shuffle(words)
        texts.append(f"Paper number {seed}. " + " ".join(words).capitalize())
    return pdf(*texts)


def _locked(user: str, owner: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(paper(101))))
    writer.encrypt(user, owner, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _page_tree_loop() -> bytes:
    return assemble([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>"])


def _deep_page_tree(depth: int) -> bytes:
    nodes = [b"<< /Type /Pages /Kids [%d 0 R] /Count 1 >>" % (3 + k) for k in range(depth)]
    return assemble([b"<< /Type /Catalog /Pages 2 0 R >>", *nodes, b"<< /Type /Page /MediaBox [0 0 9 9] >>"])


def _xref_loop() -> bytes:
    whole = pdf(PROSE)
    start = whole.rindex(b"startxref\n") + 10
    offset = int(whole[start:].split()[0])
    return whole.replace(b"/Root 1 0 R", b"/Root 1 0 R /Prev %d" % offset)


def _xref_stream_loop() -> bytes:
    """Two cross-reference streams, each of which names the other as its predecessor."""
    head = b"%PDF-1.7\n"
    body = b"%d 0 obj\n<< /Type /XRef /Size 9 /W [1 2 1] /Root 1 0 R /Prev %05d /Length 4 >>\nstream\n\x00\x00\x00\x00\nendstream\nendobj\n"
    first = body % (1, 0)
    second_at = len(head) + len(first)
    return head + body % (7, second_at) + body % (8, len(head)) + b"startxref\n%d\n%%%%EOF\n" % second_at


def _form_to_itself() -> bytes:
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>", FONT,
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R /Resources << /Font << /F1 3 0 R >> /XObject << /X 6 0 R >> >> >>",
        stream(HEADING + drawing(PROSE) + b" /X Do"),
        stream(b"/X Do /X Do", b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 6 0 R >> >>"),
    ]  # fmt: skip
    return assemble(objects)


def _form_fan_out(levels: int, width: int) -> bytes:
    """Each form draws the next one ``width`` times: width to the power of levels drawings from a few kilobytes."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>", FONT,
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R /Resources << /Font << /F1 3 0 R >> /XObject << /X 6 0 R >> >> >>",
        stream(HEADING + drawing(PROSE) + b" /X Do" * width),
    ]  # fmt: skip
    for level in range(levels):
        kind = b"/Type /XObject /Subtype /Form /BBox [0 0 612 792]"
        if level < levels - 1:
            objects.append(stream(b"/X Do " * width, kind + b" /Resources << /XObject << /X %d 0 R >> >>" % (7 + level)))
        else:
            objects.append(stream(drawing("x"), kind + b" /Resources << /Font << /F1 3 0 R >> >>"))
    return assemble(objects)


def _squeezed(data_of_one_mib: bytes, mebibytes: int) -> bytes:
    squeezer = zlib.compressobj(9)
    return b"".join(squeezer.compress(data_of_one_mib) for _ in range(mebibytes)) + squeezer.flush()


@cache
def _stream_bomb() -> bytes:
    """A gigabyte of blanks as a page's content, deflated twice to some kilobytes."""
    data = zlib.compress(_squeezed(b" " * (1 << 20), 1024), 9)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>", FONT,
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R /Resources << /Font << /F1 3 0 R >> >> >>",
        stream(data, b"/Filter [/FlateDecode /FlateDecode]"),
    ]  # fmt: skip
    return assemble(objects)


def _many_operators(count: int) -> bytes:
    data = zlib.compress(b"BT /F1 1 Tf 10 700 Td " + b"(willow ) Tj " * count + b"ET", 9)
    whole = pdf(b"@")
    return whole.replace(stream(HEADING + b"@"), stream(data, b"/Filter /FlateDecode"))


def _nested_arrays(depth: int) -> bytes:
    return pdf(PROSE, catalog=b"/Junk " + b"[" * depth + b"]" * depth)


def _nested_in_content(depth: int) -> bytes:
    return pdf(b"[" * depth + b"]" * depth + b" TJ " + drawing(PROSE))


def _scan() -> bytes:
    """A page that is one grey picture."""
    picture = stream(zlib.compress(bytes(range(256)) * 256), b"/Type /XObject /Subtype /Image /Width 256 /Height 256 /ColorSpace /DeviceGray "
                     b"/BitsPerComponent 8 /Filter /FlateDecode")  # fmt: skip
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /XObject << /I 5 0 R >> >> >>",
        stream(b"612 0 0 792 0 0 cm /I Do"), picture,
    ]  # fmt: skip
    return assemble(objects)


def _many_pages(count: int) -> bytes:
    """Eight words a page, other ones on each, so that they are no running head."""
    chance, words = random.Random(9), PROSE.split()
    return pdf(*[" ".join(chance.sample(words, 8)) for _ in range(count)])


def scattered(seed: int) -> bytes:
    """A page whose words stand anywhere, in any size: no layout that was ever seen."""
    chance = random.Random(seed)
    places = ((chance.choice([7, 9, 12, 15, 20]), chance.randrange(40, 540), chance.randrange(40, 760), word.encode()) for word in PROSE.split())
    return b" ".join(b"BT /F1 %d Tf 1 0 0 1 %d %d Tm (%s) Tj ET" % place for place in places)


def with_scanned_page() -> bytes:
    """Text, a page that is one picture with a stamp on it, and text."""
    picture = stream(bytes([128]) * 64, b"/Type /XObject /Subtype /Image /Width 8 /Height 8 /ColorSpace /DeviceGray /BitsPerComponent 8")
    scanned = b"q 612 0 0 792 0 0 cm /I Do Q BT /F1 8 Tf 9 9 Td (Downloaded on 1 May) Tj ET"
    whole = pdf(PROSE, scanned, f"Behind the picture. {PROSE}", resources=b"/XObject << /I 10 0 R >>")
    return assemble([*(body.split(b" obj\n", 1)[1].removesuffix(b"\nendobj\n") for body in _objects(whole)), picture])


def _objects(whole: bytes) -> list[bytes]:
    """The objects of a file made by ``assemble``."""
    return [part + b"\nendobj\n" for part in whole[whole.index(b"1 0 obj") : whole.rindex(b"xref\n0")].split(b"\nendobj\n") if part]


def _outline_loop() -> bytes:
    return pdf(PROSE, catalog=b"/Outlines << /First 1 0 R /Last 1 0 R /Next 1 0 R /Count 1 >>")


def _wrong_lengths() -> bytes:
    return pdf(PROSE).replace(b"/Length ", b"/Length 9")


def _count_lies() -> bytes:
    return pdf(PROSE).replace(b"/Count 1", b"/Count 2147483647")


def _object_stream_in_itself() -> bytes:
    return pdf(PROSE).replace(FONT, stream(b"3 0 << >>", b"/Type /ObjStm /N 1 /First 4 /Extends 3 0 R"))


# --- EPUB ------------------------------------------------------------------------------------------------------------------------------------

CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)


def package(chapters: Iterable[str] = ("one.xhtml",), *, prolog: str = "", title: str = "On Willows") -> str:
    names = list(chapters)
    items = "".join(f'<item id="c{k}" href="{name}" media-type="application/xhtml+xml"/>' for k, name in enumerate(names))
    spine = "".join(f'<itemref idref="c{k}"/>' for k in range(len(names)))
    return (
        f'<?xml version="1.0"?>{prolog}<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/" version="3.0">'
        f"<metadata><dc:title>{title}</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>"
    )


def chapter(body: str = f"<h1>Rings</h1><p>{PROSE}</p>", *, prolog: str = "") -> str:
    return f'<?xml version="1.0" encoding="utf-8"?>{prolog}<html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body>{body}</body></html>'


def epub(entries: dict[str, str | bytes] | None = None, *, opf: str = "", container: str = CONTAINER) -> bytes:
    """A small good EPUB, with these entries added or put in place of its own."""
    whole: dict[str, str | bytes] = {"META-INF/container.xml": container, "OEBPS/book.opf": opf or package(), "OEBPS/one.xhtml": chapter()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_entry("mimetype"), "application/epub+zip", zipfile.ZIP_STORED)
        for name, data in {**whole, **(entries or {})}.items():
            archive.writestr(_entry(name), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))  # the same bytes whenever it is made


BILLION = '<!DOCTYPE p [<!ENTITY a "ha">' + "".join(f'<!ENTITY {n} "{f"&{m};" * 10}">' for m, n in zip("abcdefgh", "bcdefghi", strict=True)) + "]>"
OUTSIDE = '<!DOCTYPE p [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'


def _overlapping(copies: int) -> bytes:
    """Many entries in the directory that all name the same packed bytes."""
    whole = epub()
    at = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    directory = whole[at:end]
    position, records = 0, []
    while position < len(directory):
        name, extra, comment = struct.unpack_from("<HHH", directory, position + 28)
        size = 46 + name + extra + comment
        records.append(directory[position : position + size])
        position += size
    last = records[-1]
    directory += b"".join(last.replace(b"one.xhtml", b"%09d" % k) for k in range(copies))
    count = len(records) + copies
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), at, 0)
    return whole[:at] + directory + tail


def _zip_locked() -> bytes:
    """The flag of an encrypted entry set on every entry, in both places."""
    whole = bytearray(epub())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = whole.find(mark)
        while at >= 0:
            whole[at + offset] |= 1
            at = whole.find(mark, at + 4)
    return bytes(whole)


def _encryption(algorithm: str) -> str:
    return (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptedData>'
        f'<enc:EncryptionMethod Algorithm="{algorithm}"/><enc:CipherData><enc:CipherReference URI="OEBPS/x"/></enc:CipherData>'
        "</enc:EncryptedData></encryption>"
    )


def _not_a_book() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(_entry("word/document.xml"), "<w/>")
    return out.getvalue()


# --- the corpus ------------------------------------------------------------------------------------------------------------------------------

PDF_BYTES = paper(1)

CORPUS: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "empty.pdf": (lambda: b"", {"not_pdf"}),
    "random.pdf": (lambda: random.Random(0).randbytes(100_000).replace(b"%PDF-", b"-----"), {"not_pdf"}),
    "a-web-page.pdf": (lambda: b"<!DOCTYPE html><title>403 Forbidden</title>" + PROSE.encode(), {"not_pdf"}),
    "zip.pdf": (lambda: _not_a_book() + b"\0", {"not_pdf"}),
    "head-alone.pdf": (lambda: b"%PDF-1.7\n", {"damaged"}),
    "head-and-noise.pdf": (lambda: b"%PDF-1.4\n" + random.Random(1).randbytes(50_000), {"damaged"}),
    "half.pdf": (lambda: paper(2, 6)[: len(paper(2, 6)) // 2], {"ok", "partial", "damaged"}),
    "without-its-tail.pdf": (lambda: PDF_BYTES[: PDF_BYTES.rindex(b"xref\n0")], {"ok", "damaged"}),
    "offsets-wrong.pdf": (lambda: paper(3).replace(b"%\xe2\xe3\xcf\xd3\n", b"%\xe2\xe3\xcf\xd3 and a line that was put in later\n"), {"ok"}),
    "lengths-wrong.pdf": (_wrong_lengths, {"ok", "damaged", "no_text"}),
    "noise-before-head.pdf": (lambda: b"\r\n" * 100 + paper(4), {"ok"}),
    "locked.pdf": (lambda: _locked("secret", "owner"), {"needs_password"}),
    "locked-for-editing.pdf": (lambda: _locked("", "owner"), {"ok"}),
    "page-tree-loop.pdf": (_page_tree_loop, {"damaged", "no_text"}),
    "page-tree-100000-deep.pdf": (lambda: _deep_page_tree(100_000), {"damaged", "no_text", "crash", "limit_time"}),
    "xref-loop.pdf": (_xref_loop, {"ok"}),
    "xref-stream-loop.pdf": (_xref_stream_loop, {"damaged", "no_text"}),
    "form-to-itself.pdf": (_form_to_itself, {"ok", "limit_time"}),
    "form-fan-out.pdf": (lambda: _form_fan_out(12, 10), {"ok", "limit_time", "limit_memory"}),
    "stream-bomb.pdf": (_stream_bomb, {"no_text", "damaged", "limit_time", "limit_memory"}),
    "3000000-operators.pdf": (lambda: _many_operators(3_000_000), {"ok", "limit_time", "limit_memory"}),
    "20000-pages.pdf": (lambda: _many_pages(20_000), {"ok", "limit_time"}),
    "200000-nested-arrays.pdf": (lambda: _nested_arrays(200_000), {"ok", "damaged", "crash"}),
    "200000-nested-in-content.pdf": (lambda: _nested_in_content(200_000), {"ok", "partial", "damaged", "no_text"}),
    "blank.pdf": (lambda: pdf(b"", b""), {"no_text"}),
    "scan.pdf": (_scan, {"no_text"}),
    "few-words.pdf": (lambda: pdf("Nothing much."), {"too_short"}),
    "no-pages.pdf": (lambda: pdf(), {"damaged", "no_text"}),
    "giant-page.pdf": (lambda: pdf(PROSE, box=b"0 0 1000000000 1000000000"), {"ok"}),
    "page-without-area.pdf": (lambda: pdf(PROSE, box=b"0 0 0 0"), {"ok", "no_text"}),
    "page-inside-out.pdf": (lambda: pdf(PROSE, box=b"612 792 0 0"), {"ok"}),
    "count-lies.pdf": (_count_lies, {"ok", "damaged", "no_text", "limit_time", "limit_memory"}),
    "outline-loop.pdf": (_outline_loop, {"ok"}),
    "object-stream-in-itself.pdf": (_object_stream_in_itself, {"ok", "no_text", "too_short", "damaged"}),
    "really-an-epub.pdf": (lambda: epub({"OEBPS/one.xhtml": chapter(f"<p>A book by the name of a paper. {PROSE}</p>")}), {"ok"}),
    "really-a-pdf.epub": (lambda: paper(5), {"ok"}),
    "random.epub": (lambda: random.Random(2).randbytes(10_000), {"not_epub"}),
    "a-letter.epub": (_not_a_book, {"not_epub"}),
    "half.epub": (lambda: epub()[:400], {"damaged"}),
    "bomb.epub": (lambda: epub({"OEBPS/one.xhtml": b"<p>" + b"a" * (200 << 20)}), {"limit_size"}),
    "30000-entries.epub": (lambda: epub({f"OEBPS/{k}": "" for k in range(30_000)}), {"limit_size"}),
    "overlapping-entries.epub": (lambda: _overlapping(500), {"ok", "damaged"}),
    "entity-bomb-in-package.epub": (lambda: epub(opf=package(prolog=BILLION, title="&i;")), {"damaged"}),
    "entity-bomb-in-chapter.epub": (lambda: epub({"OEBPS/one.xhtml": chapter(f"<p>&i; Laughter. {PROSE}</p>", prolog=BILLION)}), {"ok"}),
    "outside-entity-in-package.epub": (lambda: epub(opf=package(prolog=OUTSIDE, title="&secret;")), {"damaged"}),
    "outside-entity-in-chapter.epub": (lambda: epub({"OEBPS/one.xhtml": chapter(f"<p>&secret; Outside. {PROSE}</p>", prolog=OUTSIDE)}), {"ok"}),
    "climbing-chapter.epub": (lambda: epub(opf=package(["../../../../../../etc/passwd"])), {"damaged"}),
    "climbing-entries.epub": (lambda: epub({"../../climbed.txt": "out", "/climbed.txt": "out", "OEBPS/two": "Climbing"}), {"ok"}),
    "100000-deep-chapter.epub": (lambda: epub({"OEBPS/one.xhtml": chapter("<div>" * 100_000 + f"Depth. {PROSE}" + "</div>" * 100_000)}), {"ok"}),
    "deep-package.epub": (lambda: epub(opf="<package>" * 50_000 + "</package>" * 50_000), {"damaged"}),
    "no-spine.epub": (lambda: epub(opf=package([])), {"no_text"}),
    "container-names-nothing.epub": (lambda: epub(container="<container/>"), {"damaged"}),
    "rights-managed.epub": (lambda: epub({"META-INF/rights.xml": "<rights/>"}), {"drm"}),
    "text-encrypted.epub": (lambda: epub({"META-INF/encryption.xml": _encryption("http://www.w3.org/2001/04/xmlenc#aes128-cbc")}), {"drm"}),
    "fonts-encrypted.epub": (lambda: epub({"META-INF/encryption.xml": _encryption("http://www.idpf.org/2008/embedding")}), {"ok"}),
    "zip-encrypted.epub": (_zip_locked, {"drm"}),
}  # fmt: skip

ODD_NAMES: dict[bytes, bytes] = {
    "🌳 willow 🌳.pdf".encode(): paper(11),
    b"two\nlines.pdf": paper(12),
    b"-rf.pdf": paper(13),
    b"not-utf8-\xff\xfe.pdf": paper(14),
    b"n" * 246 + b".pdf": paper(15),
    b"CON.pdf": paper(16),
    b"UPPER.PDF": paper(17),
    b"upper.pdf": paper(18),
    b".hidden.pdf": paper(19),
    b"trailing. .pdf": paper(20),
    b"colon:star*.pdf": paper(21),
}


def write_corpus(folder: Path) -> dict[str, set[str]]:
    """Writes every file; gives the states that each name may end in."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, _) in CORPUS.items():
        (folder / name).write_bytes(make())
    return {name: states for name, (_, states) in CORPUS.items()}


if __name__ == "__main__":
    print(len(write_corpus(Path(sys.argv[1]))), "files")
