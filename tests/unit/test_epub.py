"""EPUB in reading order, without what is not the running text, and within the caps."""

from __future__ import annotations

from pathlib import Path

import pytest

from papertune.extract.backend import Damaged, NotEpub, Options, PartlyRead, Protected, TooLarge
from papertune.extract.backends import epub
from papertune.records import Block, Document
from tests.hostile import CORPUS, PROSE, chapter, package
from tests.hostile import epub as book


def read(tmp_path: Path, data: bytes) -> Document:
    path = tmp_path / "book.epub"
    path.write_bytes(data)
    return epub.open_backend(Options()).read(path)


def blocks(tmp_path: Path, body: str, prolog: str = "") -> list[Block]:
    return [block for block in read(tmp_path, book({"OEBPS/one.xhtml": chapter(body, prolog=prolog)})).blocks if block.kind != "title"]


def test_chapters_come_in_the_order_of_the_spine(tmp_path: Path) -> None:
    chapters = {f"OEBPS/{name}.xhtml": chapter(f"<p>{name}</p>") for name in ("b", "a", "one")}
    document = read(tmp_path, book(chapters, opf=package(["b.xhtml", "one.xhtml", "a.xhtml", "one.xhtml"])))
    assert [block.text for block in document.blocks] == ["On Willows", "b", "one", "a"]
    assert document.pages == 0


def test_names_with_escapes_and_folders_are_found(tmp_path: Path) -> None:
    opf = package(["text/../text/a%20b.xhtml#start"])
    assert [block.text for block in read(tmp_path, book({"OEBPS/text/a b.xhtml": chapter("<p>found</p>")}, opf=opf)).blocks][1:] == ["found"]


def test_elements_become_blocks_of_their_kind(tmp_path: Path) -> None:
    body = (
        "<h1>Rings</h1><h2>Count</h2><p>One <i>two</i><br/>three&nbsp;&eacute;.</p><ul><li>first</li><li>second</li></ul>"
        "<figure><img alt='x' src='x'/><figcaption>A ring.</figcaption></figure><table><tr><th>Year</th><td>1</td></tr></table>"
        "<aside epub:type='footnote'><p>A note.</p></aside><nav><ol><li>Contents</li></ol></nav>"
        "<section role='doc-bibliography'><p>Ash 1999.</p></section>"
    )
    assert [(block.kind, block.text, block.level) for block in blocks(tmp_path, body)] == [
        ("heading", "Rings", 1),
        ("heading", "Count", 2),
        ("paragraph", "One two three é.", 0),
        ("paragraph", "first", 0),
        ("paragraph", "second", 0),
        ("caption", "A ring.", 0),
        ("table", "Year 1", 0),
        ("footnote", "A note.", 0),
        ("furniture", "Contents", 0),
        ("reference", "Ash 1999.", 0),
    ]


def test_note_marks_page_marks_and_scripts_leave_no_trace(tmp_path: Path) -> None:
    body = "<p>A tree<a epub:type='noteref' href='#1'>1</a> grew<span epub:type='pagebreak'>17</span> tall.<script>x()</script></p><style>p{}</style>"
    assert [block.text for block in blocks(tmp_path, body)] == ["A tree grew tall."]


def test_what_stands_under_references_is_no_running_text(tmp_path: Path) -> None:
    body = "<h2>Rings</h2><p>Text.</p><h2>References</h2><p>Ash 1999.</p><h2>Roots</h2><p>More.</p>"
    document = read(tmp_path, book({"OEBPS/one.xhtml": chapter(body)}))
    assert document.running_text() == "# On Willows\n\n### Rings\n\nText.\n\n### Roots\n\nMore.\n"


def test_a_title_repeated_as_first_heading_stands_once(tmp_path: Path) -> None:
    document = read(tmp_path, book({"OEBPS/one.xhtml": chapter("<h1>ON WILLOWS</h1><p>Text.</p>")}))
    assert [block.kind for block in document.blocks] == ["title", "paragraph"]


def test_careless_markup_is_read(tmp_path: Path) -> None:
    assert [block.text for block in blocks(tmp_path, "<p>one<p>two</div></b><p>AT&T &unknown; <b>bold")] == ["one", "two", "AT&T &unknown; bold"]


def test_an_old_document_type_is_no_obstacle_and_encodings_are_heeded(tmp_path: Path) -> None:
    old = '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd">'
    assert blocks(tmp_path, "<p>text</p>", prolog=old)[0].text == "text"
    latin = chapter("<p>Zürich</p>").replace("utf-8", "iso-8859-1").encode("latin-1")
    assert read(tmp_path, book({"OEBPS/one.xhtml": latin})).blocks[1].text == "Zürich"
    wide = chapter("<p>Zürich</p>").encode("utf-16")
    assert read(tmp_path, book({"OEBPS/one.xhtml": wide})).blocks[1].text == "Zürich"


def test_a_missing_chapter_costs_that_chapter(tmp_path: Path) -> None:
    with pytest.raises(PartlyRead, match=r"1 of 2 chapters are missing; OEBPS/gone\.xhtml") as caught:
        read(tmp_path, book(opf=package(["gone.xhtml", "one.xhtml"])))
    assert PROSE in caught.value.document.running_text()


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("a-letter.epub", NotEpub, "container.xml"),
        ("half.epub", Damaged, "zip"),
        ("bomb.epub", TooLarge, "unpacks to more"),
        ("30000-entries.epub", TooLarge, "30004 entries"),
        ("entity-bomb-in-package.epub", Damaged, "declares an entity"),
        ("outside-entity-in-package.epub", Damaged, "declares an entity"),
        ("climbing-chapter.epub", Damaged, "no entry"),
        ("deep-package.epub", Damaged, "nested deeper"),
        ("rights-managed.epub", Protected, "rights"),
        ("text-encrypted.epub", Protected, "encrypted"),
        ("zip-encrypted.epub", Protected, "encrypted"),
    ],
)
def test_refusals_say_what_is_wrong(name: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        read(tmp_path, CORPUS[name][0]())


def test_entities_of_a_chapter_are_neither_expanded_nor_fetched(tmp_path: Path) -> None:
    names = ("entity-bomb-in-chapter.epub", "outside-entity-in-chapter.epub")
    texts = [block.text for name in names for block in read(tmp_path, CORPUS[name][0]()).blocks]
    assert "root:" not in "".join(texts)
    assert max(map(len, texts)) < len(PROSE) + 50
