"""What the sections are made of: headings, tables, lists of figures, things that unfold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from papertune.report.facts import Absent
from papertune.report.markup import Content, Markup, element, joined
from papertune.report.words import count

MOST_ROWS = 2000
"""Rows of a list that are on the page; the files themselves have the rest."""

_HEX = 12  # digits of a hash that are shown


def section(id: str, title: str, lead: Content, *content: Content) -> Markup:
    """A section of the page under its own heading; ``lead`` says in a sentence what there is to know."""
    heading = element("h2", title, id=f"{id}-title")
    return element("section", heading, element("p", lead, class_="lead") if lead else None, *content, id=id, aria_labelledby=f"{id}-title")


def missing(id: str, title: str, absent: Absent) -> Markup:
    """The section of a step that has left nothing: what is not there yet, and which command makes it."""
    return section(id, title, None, not_yet(absent.why, absent.command))


def not_yet(why: str, command: str) -> Markup:
    return element("p", element("b", why), " Run: ", element("code", command), class_="missing")


def figures(pairs: Iterable[tuple[str, Content]]) -> Markup:
    """Names and values, side by side."""
    return element("dl", [element("div", element("dt", name), element("dd", value)) for name, value in pairs if value is not None], class_="figures")


def table(heads: Sequence[str], rows: Iterable[Sequence[Content]], *, caption: str, kinds: str = "", foot: Sequence[Content] = ()) -> Markup:
    """A table whose first column names the row. ``kinds`` has a letter a column: t for text, n for numbers, c for a chart.

    ``caption`` is heard, not seen, and so is a head in brackets: a heading or a chart's title stands above the table already.
    """
    kinds = kinds or "t" * len(heads)
    head = element("tr", [element("th", _head(name), scope="col", class_=_KINDS[kind]) for name, kind in zip(heads, kinds, strict=True)])
    body = [_row(row, kinds) for row in rows]
    last = element("tr", [element("td", cell, class_=_KINDS[kind]) for cell, kind in zip(foot, kinds, strict=True)]) if foot else None
    parts = (element("thead", head), element("tbody", body), element("tfoot", last) if last else None)
    whole = element("table", element("caption", caption), *parts)
    return element("div", whole, class_="scroll", role="region", aria_label=caption, tabindex=0)


def folded(summary: str, *content: Content) -> Markup:
    """What is there for those who want it."""
    return element("details", element("summary", summary), *content)


def long_list(summary: str, heads: Sequence[str], rows: Sequence[Sequence[Content]], *, kinds: str, rest: str) -> Markup:
    """A list that unfolds and has ``MOST_ROWS`` rows at most; ``rest`` says where the others are."""
    over = len(rows) - MOST_ROWS
    more = element("p", f"{count(over)} more are in {rest}.") if over > 0 else None
    return folded(summary, table(heads, rows[:MOST_ROWS], caption=summary, kinds=kinds), more)


def settings(values: Mapping[str, Any], caption: str) -> Markup:
    rows = [(element("code", name.replace("_", "-")), _value(value)) for name, value in values.items()]
    return table(("Setting", "Value"), rows, caption=caption)


def sha(digest: str) -> Content:
    """The first digits of a hash, with all of them for those who point at it."""
    return element("code", digest[:_HEX], title=digest, class_="sha") if digest else "not recorded"


def name(text: str) -> Markup:
    """A name or title from outside, kept from turning the direction of what stands beside it."""
    return element("bdi", text)


def sentences(*parts: Content) -> Markup:
    return joined([(part, " ") for part in parts if part is not None])


def _head(name: str) -> Content:
    return element("span", name[1:-1], class_="heard") if name.startswith("(") else name


def _row(row: Sequence[Content], kinds: str) -> Markup:
    cells = [element("td", cell, class_=_KINDS[kind]) for cell, kind in zip(row[1:], kinds[1:], strict=True)]
    return element("tr", element("th", row[0], scope="row", class_=_KINDS[kinds[0]]), cells)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


_KINDS = {"t": None, "n": "number", "c": "chart"}
