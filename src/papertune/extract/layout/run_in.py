"""Headings that run into their paragraph: "**Methods:** We took ..." and "*2.1. Plant material.* Leaves were ..."."""

from __future__ import annotations

import re
from dataclasses import replace

from papertune.extract.layout.lines import Line, Span

LONGEST = 110  # characters of such a heading
_END = re.compile(r"[.:—–]\s*$")
_MARK = re.compile(r"\s*[:—–]\s*")
_NUMBER = re.compile(r"\d+(\.\d+)*\.?")
_SENTENCE = re.compile(r"(?<=[A-Za-z]{3})[.:] +(?=[A-Z][a-z]+$)")
_FIRST_SENTENCE = re.compile(rf"\d+(?:\.\d+)+\.?\s.{{3,{LONGEST}}}?(?<=[A-Za-z)]{{3}})[.:] +(?=[A-Z])")
_LETTERS = re.compile(r"(?:[^\W\d_].*){3}")
_NOT_HEADING = re.compile(r"(?:fig|table|scheme|chart|box|\(|\[)", re.I)
_PLAIN = re.compile(
    r"(?:background|objectives?|aims?|purpose|introduction|context|(?:materials? and |patients and )?methods?(?: and materials?| and results)?"
    r"|results?(?: and discussion)?|findings|discussion|conclusions?|significance(?: of the study)?|interpretation|summary|setting|(?:study )?design"
    r"|statement of problem|abstract)\s?[:.—–]\s*",
    re.I,
)


def without_run_in(line: Line, plain: frozenset[str]) -> list[Line]:
    """The heading and the rest of the line; or the line alone. ``plain`` are the fonts of the running text."""
    parts = _by_type(line.spans, plain) or _by_number(line.spans, plain) or _by_word(line.spans)
    if parts is None:
        return [line]
    return [Line(line.page, spans, line.order) for spans in parts]


def _by_type(spans: list[Span], plain: frozenset[str]) -> tuple[list[Span], list[Span]] | None:
    """Where the type changes to that of the running text, or from bold to a species' name, if what stands before ends like a heading."""
    if spans[0].font in plain and not _NUMBER.fullmatch(spans[0].text.strip()):
        return None
    text = next((index for index, span in enumerate(spans) if index and span.font in plain and span.text.strip()), None)
    if text is None:
        return None
    for cut in range(1, text + 1):
        head = "".join(span.text + " " * span.space for span in spans[:cut])
        if len(head) > LONGEST or _NOT_HEADING.match(head):
            return None
        changes = cut == text or spans[cut].bold != spans[0].bold or abs(spans[cut].size - spans[0].size) > 0.6
        if changes and _END.search(head) and _LETTERS.search(head):
            return spans[:cut], spans[cut:]
    if not _LETTERS.search(head):
        return None
    if mark := _MARK.match(spans[text].text):  # the colon is set in plain type
        rest = [*_split(spans[text], mark.end())[1:], *spans[text + 1 :]]
        return (spans[:text], rest) if rest else None
    inside = _SENTENCE.search(spans[0].text)  # the first word after the heading is set like it: a species' name
    return _parted(spans, inside.end()) if inside and text == 1 else None


def _by_number(spans: list[Span], plain: frozenset[str]) -> tuple[list[Span], list[Span]] | None:
    """"*3.1. Ocimum sanctum. Ocimum sanctum* is ...": the first sentence behind a number in a type of its own."""
    first = spans[0]
    end = _FIRST_SENTENCE.match(first.text) if first.font not in plain else None
    return _parted(spans, end.end()) if end else None


def _by_word(spans: list[Span]) -> tuple[list[Span], list[Span]] | None:
    """"Results: ..." in one type."""
    match = _PLAIN.match(spans[0].text)
    return _parted(spans, match.end()) if match and spans[0].text[0].isupper() else None


def _parted(spans: list[Span], at: int) -> tuple[list[Span], list[Span]] | None:
    """The first span up to a character, and all the rest, if there is any."""
    head, *after = _split(spans[0], at)
    rest = [*after, *spans[1:]]
    return ([head], rest) if any(span.text.strip() for span in rest) else None


def _split(span: Span, at: int) -> list[Span]:
    """The span before and after a character; one span when nothing comes after it. Where it lies is in proportion to the characters."""
    if not span.text[at:].strip():
        return [span]
    middle = span.left + (span.right - span.left) * at / len(span.text)
    return [replace(span, text=span.text[:at], right=middle, space=True), replace(span, text=span.text[at:], left=middle)]
