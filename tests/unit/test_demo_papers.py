"""The demo's papers: six PDFs and a book, valid, the same each time, and saying what ``known_text`` says they say."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from papertune.demo.epub import epub_of
from papertune.demo.source import PAPERS, known_text, paper_text, papers
from papertune.demo.typeset import pdf_of, write_papers
from papertune.errors import MissingLibrary

BY_NAME = {paper.name: paper for paper in papers()}
PRINTED = [name for name, paper in BY_NAME.items() if paper.format == "pdf"]
BOOKS = [name for name, paper in BY_NAME.items() if paper.format == "epub"]
NAMESPACES = {"opf": "http://www.idpf.org/2007/opf", "dc": "http://purl.org/dc/elements/1.1/", "html": "http://www.w3.org/1999/xhtml"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("typst")
    folder = tmp_path_factory.mktemp("demo") / "pdfs"
    write_papers(folder)
    return folder


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def sentences(name: str) -> set[str]:
    return {sentence for block in known_text()[name] for sentence in re.split(r"(?<=[.?!]) ", block.text) if len(sentence.split()) > 5}


def test_six_papers_and_a_book(folder: Path) -> None:
    assert len(PRINTED) == 6
    assert len(BOOKS) == 1
    assert {path.name for path in folder.iterdir()} == {f"{paper.name}.{paper.format}" for paper in BY_NAME.values()}


def test_same_bytes_again(folder: Path, tmp_path: Path) -> None:
    again = write_papers(tmp_path)
    assert {path.name: path.read_bytes() for path in again} == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", PRINTED)
def test_pdf_prints_the_known_text(folder: Path, name: str) -> None:
    import pypdfium2

    with pypdfium2.PdfDocument(folder / f"{name}.pdf") as pdf:
        assert 3 <= len(pdf) <= 6
        pages = [page.get_textpage().get_text_range() for page in pdf]
    assert "people, data and references are invented" in " ".join(pages[0].split())
    # pdfium marks a hyphen at a line's end with U+FFFE.
    printed = set(words(re.sub("(\ufffe|\u00ad|-)\\s*", "", " ".join(pages))))
    known = words(re.sub("-\\s*", "", paper_text(name)))
    assert sum(word in printed for word in known) / len(known) > 0.99


@pytest.mark.parametrize("name", BOOKS)
def test_epub_is_well_formed_and_whole(name: str) -> None:
    with zipfile.ZipFile(io.BytesIO(epub_of(BY_NAME[name]))) as book:
        first = book.infolist()[0]
        assert (first.filename, first.compress_type, book.read(first)) == ("mimetype", zipfile.ZIP_STORED, b"application/epub+zip")
        trees = {entry: ElementTree.fromstring(book.read(entry)) for entry in book.namelist()[1:]}
    container = trees["META-INF/container.xml"]
    assert [root.get("full-path") for root in container.iter("{urn:oasis:names:tc:opendocument:xmlns:container}rootfile")] == ["OEBPS/package.opf"]
    package = trees["OEBPS/package.opf"]
    assert package.findtext(".//dc:title", namespaces=NAMESPACES) == BY_NAME[name].title
    manifest = {item.get("id"): f"OEBPS/{item.get('href')}" for item in package.iterfind(".//opf:item", NAMESPACES)}
    spine = [manifest[ref.get("idref")] for ref in package.iterfind(".//opf:itemref", NAMESPACES)]
    assert set(manifest.values()) == set(trees) - {"META-INF/container.xml", "OEBPS/package.opf"}
    assert [f"OEBPS/{link.get('href')}" for link in trees["OEBPS/nav.xhtml"].iterfind(".//html:a", NAMESPACES)] == spine
    text = " ".join("".join(trees[entry].itertext()) for entry in spine).replace("*", "")
    assert all(block.text in text for block in known_text()[name] if block.kind != "table")


@pytest.mark.parametrize("name", BY_NAME)
def test_known_text_is_complete_and_free_of_markup(name: str) -> None:
    blocks = known_text()[name]
    kinds = {block.kind for block in blocks}
    assert kinds >= {"title", "author", "heading", "paragraph", "caption", "table", "footnote", "reference", "back"}
    assert ("formula" in kinds) == (name in PRINTED)
    assert 8 <= sum(block.kind == "reference" for block in blocks) <= 12
    assert {block.level for block in blocks if block.kind == "heading"} == {1, 2}
    text = paper_text(name)
    assert 1800 <= len(words(text)) <= 2800
    assert text.startswith(f"# {BY_NAME[name].title}\n\n## Abstract\n\n")
    assert not [block for block in blocks if block.kind != "formula" and re.search(r"[*`]|\^\[|\$|  ", block.text)]


def test_papers_share_no_sentence() -> None:
    assert not [(one, other) for one, other in combinations(BY_NAME, 2) if sentences(one) & sentences(other)]


def test_unknown_paper() -> None:
    with pytest.raises(KeyError):
        paper_text("no-such-paper")


def test_licence_lies_beside_the_papers() -> None:
    assert "CC0" in (PAPERS / "LICENSE").read_text(encoding="utf-8")


def test_without_typst_the_message_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(MissingLibrary, match=r'pip install "papertune\[demo\]"'):
        pdf_of(BY_NAME[PRINTED[0]])
