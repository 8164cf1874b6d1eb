"""A paper as an EPUB 3 book: a title page and one XHTML file a section. Stored, not deflated, so that its bytes depend on nothing else."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from html import escape

from papertune.demo.source import Item, Paper

MODIFIED = "2026-01-01T00:00:00Z"
_CONTAINER = """<?xml version="1.0" encoding="UTF-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="OEBPS/package.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>
"""
_PACKAGE = """<?xml version="1.0" encoding="UTF-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:identifier id="id">urn:papertune:demo:{name}</dc:identifier>
<dc:title>{title}</dc:title>
<dc:language>en</dc:language>
{creators}
<dc:rights>CC0 1.0</dc:rights>
<meta property="dcterms:modified">{modified}</meta>
</metadata>
<manifest>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
{manifest}
</manifest>
<spine>
{spine}
</spine>
</package>
"""
_PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" xml:lang="en" lang="en">
<head><title>{title}</title></head>
<body>
{body}
</body>
</html>
"""


def epub_of(paper: Paper) -> bytes:
    """The bytes of the book."""
    chapters = list(_chapters(paper))
    names = [f"chapter-{number:02}.xhtml" for number in range(len(chapters))]
    links = "\n".join(f'<li><a href="{name}">{escape(title)}</a></li>' for name, (title, _) in zip(names, chapters, strict=True))
    package = _PACKAGE.format(
        name=paper.name,
        title=escape(paper.title),
        creators="\n".join(f"<dc:creator>{escape(author)}</dc:creator>" for author in paper.authors),
        modified=MODIFIED,
        manifest="\n".join(f'<item id="c{i}" href="{name}" media-type="application/xhtml+xml"/>' for i, name in enumerate(names)),
        spine="\n".join(f'<itemref idref="c{i}"/>' for i in range(len(names))),
    )
    parts = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": _CONTAINER,
        "OEBPS/package.opf": package,
        "OEBPS/nav.xhtml": _page("Contents", f'<nav epub:type="toc"><h1>Contents</h1>\n<ol>\n{links}\n</ol></nav>'),
        **{f"OEBPS/{name}": _page(title, body) for name, (title, body) in zip(names, chapters, strict=True)},
    }
    book = io.BytesIO()
    with zipfile.ZipFile(book, "w") as archive:
        for name, text in parts.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            archive.writestr(entry, text.encode())
    return book.getvalue()


def _page(title: str, body: str) -> str:
    return _PAGE.format(title=escape(title), body=body)


def _chapters(paper: Paper) -> Iterator[tuple[str, str]]:
    """Title and XHTML body of every file of the spine."""
    authors = escape(", ".join(paper.authors))
    yield (
        paper.title,
        (
            f'<h1>{escape(paper.title)}</h1>\n<p class="author">{authors}</p>\n<p class="author">{escape(paper.affiliation)}</p>\n'
            f'<section epub:type="abstract"><h2>Abstract</h2>\n<p>{escape(paper.abstract)}</p></section>'
        ),
    )
    starts = [i for i, item in enumerate(paper.items) if item.kind == "heading" and item.level == 1]
    for start, end in zip(starts, [*starts[1:], len(paper.items)], strict=True):
        yield paper.items[start].text, "\n".join(_xhtml(item, f"n{start + i}") for i, item in enumerate(paper.items[start:end]))
    yield "Acknowledgements", f'<section epub:type="acknowledgments"><h2>Acknowledgements</h2>\n<p>{escape(paper.acknowledgements)}</p></section>'
    entries = "\n".join(f"<li>{escape(text)}</li>" for text in paper.references)
    yield "References", f'<section epub:type="bibliography"><h2>References</h2>\n<ol>\n{entries}\n</ol></section>'


def _xhtml(item: Item, anchor: str) -> str:
    """One block; formulas and drawings, which are Typst code, do not occur in a book."""
    if item.kind == "heading":
        return f"<h{item.level + 1}>{escape(item.text)}</h{item.level + 1}>"
    if item.kind == "table":
        rows = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in item.rows)
        return f"<table>\n<caption>{escape(item.text)}</caption>\n{rows}\n</table>"
    if item.kind != "paragraph":
        raise ValueError(f"a book has no {item.kind}")
    text, notes = "", ""
    for number, run in enumerate(item.runs):
        words = escape(run.text)
        if run.kind == "note":
            text += f'<a epub:type="noteref" href="#{anchor}-{number}"><sup>*</sup></a>'
            notes += f'\n<aside epub:type="footnote" id="{anchor}-{number}"><p>{words}</p></aside>'
        else:
            text += f"<em>{words}</em>" if run.kind == "emphasis" else words
    return f"<p>{text}</p>{notes}"
