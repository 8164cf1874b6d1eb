"""Which pages go to a second look: those that cannot be read, and those whose lines are probably not what they are taken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from papertune.extract.backends.fast import pages_of
from papertune.extract.doubt import unread_pages, unsure_pages
from papertune.extract.layout import lay_out
from papertune.extract.layout.lines import Page, Span
from tests import hostile


@pytest.mark.parametrize(
    ("data", "unread", "unsure"),
    [
        (hostile.paper(1), (), ()),
        (hostile.pdf(hostile.PROSE, hostile.scattered(1), hostile.PROSE), (), (2,)),
        (hostile.pdf(hostile.PROSE, b"BT /F1 9 Tf 300 90 Td (Plate 4) Tj ET"), (), ()),  # too few letters to say
        (hostile.pdf(hostile.PROSE, b""), (), ()),  # a blank page needs no one
        (hostile.with_scanned_page(), (2,), ()),
    ],
)
def test_doubtful_pages(data: bytes, unread: tuple[int, ...], unsure: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "paper.pdf"
    path.write_bytes(data)
    pages, _ = pages_of(path)
    assert (unread_pages(pages), unsure_pages(lay_out(pages))) == (unread, unsure)


@pytest.mark.parametrize(
    ("text", "garbled"),
    [
        ("\ue012\ue034\ue021 \ue00f" * 80, True),
        ("plain words " * 30, False),
        ("with \uf061 and \uf062 of the Symbol font " * 20, False),  # these have a meaning
        ("a hyphen of pdfium\x02" * 20, False),
        ("\ue012\ue034", False),  # two signs are no page
    ],
)
def test_a_font_without_meaning_is_unread(text: str, garbled: bool) -> None:
    assert unread_pages([Page(7, 612, 792, [Span(text, 72, 500, 100, 10)])]) == ((7,) if garbled else ())
