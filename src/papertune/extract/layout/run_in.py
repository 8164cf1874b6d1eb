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
_NOT_HEADING = re.compile(r"(?:fig|table|scheme|chart|box|\(|\[)", re.I)
_PLAIN = re.compile(
    r"(?:background|objectives?|aims?|purpose|introduction|context|(?:materials? and |patients and )?methods?(?: and materials?| and results)?"
    r"|results?(?: and discussion)?|findings|discussion|conclusions?|significance(?: of the study)?|interpretation|summary|setting|(?:study )?design"
    r"|statement of problem|abstract)\s?[:.—–]\s*",
    re.I,
)


def without_run_in(line: Line, plain: frozenset[str]) -> list[Line]:
    """The heading and the rest of the line; or the line alone. ``plain`` are the fonts of the running text."""
    parts = _by_type(line, plain) or _by_word(line)
    if parts is None:
        return [line]
    return [Line(line.page, spans, line.order) for spans in parts]


def _by_type(line: Line, plain: frozenset[str]) -> tuple[list[Span], list[Span]] | None:
    """Where the type changes to that of the running text, if what stands before ends like a heading."""
    spans = line.spans
    if len(spans) < 2 or (spans[0].font in plain and not _NUMBER.fullmatch(spans[0].text.strip())):
        return None
    cut = next((index for index, span in enumerate(spans) if index and span.font in plain and span.text.strip()), None)
    if cut is None:
        return None
    head = "".join(span.text + " " * span.space for span in spans[:cut])
    if sum(character.isalpha() for character in head) < 3 or len(head) > LONGEST or _NOT_HEADING.match(head):
        return None
    if _END.search(head):
        return spans[:cut], spans[cut:]
    if mark := _MARK.match(spans[cut].text):  # the colon is set in plain type
        after = _split(spans[cut], mark.end())[1:]
        rest = [*after, *spans[cut + 1 :]]
        return (spans[:cut], rest) if rest else None
    inside = _SENTENCE.search(spans[cut - 1].text)  # the first word after the heading is set like it: a species' name
    if inside and cut == 1:
        before, *after = _split(spans[0], inside.end())
        return [before], [*after, *spans[1:]]
    return None


def _by_word(line: Line) -> tuple[list[Span], list[Span]] | None:
    """"Results: ..." in one type."""
    first = line.spans[0]
    match = _PLAIN.match(first.text)
    if match is None or not first.text[0].isupper():
        return None
    parts = _split(first, match.end())
    rest = [*parts[1:], *line.spans[1:]]
    return ([parts[0]], rest) if any(span.text.strip() for span in rest) else None


def _split(span: Span, at: int) -> list[Span]:
    """The span before and after a character; one span when nothing comes after it. Where it lies is in proportion to the characters."""
    if not span.text[at:].strip():
        return [span]
    middle = span.left + (span.right - span.left) * at / len(span.text)
    return [replace(span, text=span.text[:at], right=middle, space=True), replace(span, text=span.text[at:], left=middle)]
