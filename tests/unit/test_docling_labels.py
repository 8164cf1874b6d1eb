"""Docling's items become blocks of our kinds, with places in our units."""

from __future__ import annotations

import pytest

pytest.importorskip("docling")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:docling")


def test_labels_levels_and_places() -> None:
    from docling_core.types.doc import BoundingBox, CoordOrigin, DocItemLabel, DoclingDocument, ProvenanceItem, Size
    from docling_core.types.doc.common.content_layer import ContentLayer

    from papertune.extract.backends.docling import _blocks
    from papertune.records import Place

    document = DoclingDocument(name="paper")
    document.add_page(page_no=1, size=Size(width=612, height=792))
    box = BoundingBox(l=72, t=720, r=300, b=700, coord_origin=CoordOrigin.BOTTOMLEFT)
    document.add_text(DocItemLabel.TITLE, "On  Willows", prov=ProvenanceItem(page_no=1, bbox=box, charspan=(0, 1)))
    document.add_heading("Methods", level=2)
    document.add_text(DocItemLabel.TEXT, "We counted cafe\u0301s.")
    document.add_list_item("first")
    document.add_text(DocItemLabel.FORMULA, "x = 1")
    document.add_text(DocItemLabel.PAGE_HEADER, "Journal", content_layer=ContentLayer.FURNITURE)
    document.add_text(DocItemLabel.FOOTNOTE, "A note.")
    blocks = {block.text: block for block in _blocks(document)}
    assert {text: block.kind for text, block in blocks.items()} == {
        "On Willows": "title", "Methods": "heading", "We counted cafés.": "paragraph", "first": "paragraph", "x = 1": "formula",
        "Journal": "furniture", "A note.": "footnote",
    }  # fmt: skip
    assert blocks["Methods"].level == 2
    assert blocks["On Willows"].places == (Place(1, (72, 72, 300, 92)),)
