"""Text stays text, whatever it says: nothing from a paper becomes part of the page's markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertune.report.markup import Markup, document, element, joined, stylesheet
from tests.run_files import HOSTILE

NASTY = (HOSTILE, "<!--", "]]>", "&lt;script&gt;", "<script>", '" onload="x', "\ud800")
ANYTHING = st.text(st.characters(codec=None), max_size=60) | st.sampled_from(NASTY)


class Parsed(HTMLParser):
    """Elements with their attributes, and all text, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def shown(text: str) -> str:
    """The text less what HTML cannot hold."""
    return "".join("\ufffd" if _forbidden(ord(c)) else c for c in text)


def _forbidden(code: int) -> bool:
    control = (code < 0x20 and code not in (9, 10, 13)) or 0x7F <= code <= 0x9F or code == 0xB
    return control or 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code in (0xFFFE, 0xFFFF)


@given(ANYTHING, ANYTHING)
def test_text_and_attributes_come_out_as_they_went_in_and_add_no_element(text: str, attribute: str) -> None:
    found = Parsed(element("p", text, element("b", text), title=attribute).html)
    assert found.elements == [("p", {"title": shown(attribute)}), ("b", {})]
    assert found.text == shown(text) * 2


@given(st.lists(ANYTHING, max_size=4))
def test_lists_nothing_and_numbers_are_content_too(texts: list[str]) -> None:
    assert Parsed(joined(texts, None, [3, [element("i", 4)]]).html).text == "".join(map(shown, texts)) + "34"


def test_markup_is_no_text() -> None:
    bold = element("b", "x")
    with pytest.raises(TypeError, match="put it into an element"):
        f"{bold}"
    with pytest.raises(TypeError):
        "text" + bold  # type: ignore[operator]
    with pytest.raises(TypeError):
        "".join([bold])  # type: ignore[list-item]
    assert "<b>" not in element("p", repr(bold)).html


@pytest.mark.parametrize(
    "make",
    [
        lambda: element("script", "alert(1)"),
        lambda: element("p", onclick="alert(1)"),
        lambda: element("p", style="color:red"),
        lambda: element("a", href="https://example.org"),
        lambda: element("a", href="javascript:alert(1)"),
        lambda: element("img", src="x"),
        lambda: element("p><script"),
        lambda: element("p", **{"a b": "c"}),
        lambda: stylesheet("</style><script>"),
    ],
)
def test_nothing_that_runs_or_loads_can_be_made(make: object) -> None:
    with pytest.raises(ValueError, match=r"of this page|nowhere else|ends itself"):
        make()  # type: ignore[operator]


def test_attributes_that_are_off_are_left_out() -> None:
    assert element("input", type="radio", checked=True, disabled=False, id=None, aria_label="a").html == '<input type="radio" checked aria-label="a">'
    assert document(Markup("<html></html>")) == "<!doctype html>\n<html></html>\n"
