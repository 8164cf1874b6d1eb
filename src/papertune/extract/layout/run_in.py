"""Headings that run into their paragraph: "**Methods:** We took ..." and "*2.1. Plant material.* Leaves were ..."."""

from __future__ import annotations

import re
from dataclasses import replace

from papertune.extract.layout.lines import Line, Span

LONGEST = 110  # characters of such a heading
_END = re.compile(r"[.:—–]\s*$")
_NOT_HEADING = re.compile(r"(?:fig|table|scheme|chart|box|\(|\[)", re.I)
_PLAIN = re.compile(
    r"(?:background|objectives?|aims?|purpose|introduction|context|(?:materials? and |patients and )?methods?(?: and materials?| and results)?|results?(?: and discussion)?|findings"
    r"|discussion|conclusions?|significance(?: of the study)?|interpretation|summary|setting|design|study design|statement of problem|abstract)\s?[:.—–]\s*",
    re.I,
)


def without_run_in(line: Line) -> list[Line]:
    """The heading and the rest of the line; or the line alone."""
    parts = _by_type(line) or _by_word(line)
    if parts is None:
        return [line]
    return [Line(line.page, spans, line.order) for spans in parts]


def _by_type(line: Line) -> tuple[list[Span], list[Span]] | None:
    """Where the type changes from bold (or italic) to plain, if what stands before ends like a heading."""
    spans = line.spans
    first = spans[0]
    if len(spans) < 2 or not (first.bold or first.italic):
        return None
    cut = next((index for index, span in enumerate(spans) if span.text.strip() and (span.bold, span.italic) != (first.bold, first.italic)), None)
    if cut is None:
        return None
    mark = re.match(r"\s*[:.—–]\s*", spans[cut].text)  # the colon may be set in plain type
    head = "".join(span.text + " " * span.space for span in spans[:cut])
    if sum(character.isalpha() for character in head) < 4 or len(head) > LONGEST or _NOT_HEADING.match(head) or not (_END.search(head) or mark):
        return None
    rest = spans[cut:]
    if mark:
        moved = mark.end()
        if moved == len(spans[cut].text):
            rest = spans[cut + 1 :]
        else:
            rest = [replace(spans[cut], text=spans[cut].text[moved:]), *spans[cut + 1 :]]
    return (spans[:cut], rest) if any(span.text.strip() for span in rest) else None


def _by_word(line: Line) -> tuple[list[Span], list[Span]] | None:
    """"Results: ..." in one type."""
    first = line.spans[0]
    match = _PLAIN.match(first.text)
    if match is None or not first.text[0].isupper() or not first.text[match.end() :].strip() or (match.group().strip()[-1] == "." and match.group().islower()):
        return None
    at = first.left + (first.right - first.left) * match.end() / len(first.text)
    head = replace(first, text=first.text[: match.end()], right=at, space=True)
    return [head], [replace(first, text=first.text[match.end() :], left=at), *line.spans[1:]]
