"""HTML that cannot be made by accident: text becomes markup only by being put into an element, which escapes it.

``Markup`` is no ``str``. It does not add to one, and formatting it fails; so a title of a paper cannot slip into the page unescaped, whatever
a section does with it. There is one way in (``element``) and one way out (``Markup.html``, which ``page`` calls for the whole page).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import NoReturn

# What HTML forbids even as a reference: controls, halves of surrogate pairs, noncharacters (HTML Living Standard, 13.1.4).
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_VOID = frozenset({"br", "hr", "input", "meta", "wbr"})
_RUNS = frozenset({"script", "iframe", "object", "embed", "link", "base", "form"})  # the page runs and loads nothing

Attribute = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Markup:
    """Markup that is whole and safe. Only this module makes any."""

    html: str

    def __str__(self) -> NoReturn:
        raise TypeError("markup is no text: put it into an element")  # an f-string with markup in it fails likewise


Content = Markup | str | int | None | Iterable["Content"]
"""What an element may hold: markup as it is, text escaped, nothing for None, and all of these in a row."""


def element(tag: str, *content: Content, **attributes: Attribute) -> Markup:
    """``<tag attribute="…">content</tag>``.

    ``class_`` is ``class`` and ``aria_label`` is ``aria-label``. An attribute that is None or False is left out, one that is True has no value.
    Raises ValueError for what could run or load something: scripts, handlers, styles beside the page's own, addresses beyond the page.
    """
    if not _NAME.fullmatch(tag) or tag in _RUNS:
        raise ValueError(f"no element of this page: {tag!r}")
    start = tag + "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{joined(*content).html}</{tag}>")


def joined(*content: Content) -> Markup:
    """Several pieces as one, without an element around them."""
    return Markup("".join(_pieces(content)))


def stylesheet(css: str) -> Markup:
    """The page's own style sheet, which is no one's text."""
    if "</" in css:
        raise ValueError("a style sheet that ends itself")
    return Markup(f"<style>{css}</style>")


def document(root: Markup) -> str:
    """The text of a page whose root element this is."""
    return f"<!doctype html>\n{root.html}\n"


def _pieces(content: Iterable[Content]) -> Iterable[str]:
    for part in content:
        match part:
            case None:
                continue
            case Markup():
                yield part.html
            case str():
                yield escape(_allowed(part), quote=False)
            case int():
                yield str(part)
            case _:
                yield from _pieces(part)


def _attribute(name: str, value: Attribute) -> str:
    name = name.rstrip("_").replace("_", "-")
    if not _NAME.fullmatch(name) or name.lower().startswith("on") or name.lower() in ("style", "src", "srcset", "srcdoc", "action", "formaction"):
        raise ValueError(f"no attribute of this page: {name!r}")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if name == "href" and not text.startswith("#"):
        raise ValueError(f"the page leads nowhere else: {text!r}")
    return f' {name}="{escape(_allowed(text))}"'


def _allowed(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
