"""Cuts a flow of sentences into chunks that fit, in one pass.

A chunk takes whole sentences up to the caps in characters and tokens. It rather ends where a section ends (if at least half full), else
where a paragraph ends (if three quarters full), and does not leave a small rest of a section for the next chunk. A chunk that goes on in
the middle of a section repeats the last whole sentences of the one before, up to ``overlap`` characters, but never its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from papertune.dataset.flow import Flow

_SECTION_FILL, _PARAGRAPH_FILL, _REST = 0.5, 0.75, 0.3


@dataclass(frozen=True, slots=True)
class Chunk:
    """Sentences ``first`` (inclusive) to ``last`` (exclusive) of a flow. ``repeated`` of them stood in the chunk before.

    ``end``: a section ends with it. ``tokens`` are those of the text without prompt, begin and end token.
    """

    first: int
    last: int
    repeated: int
    end: bool
    tokens: int


def cut(flow: Flow, *, overlap: int, room: Callable[[int, bool], tuple[int, int]]) -> Iterator[Chunk]:
    """The chunks. ``room(section, inside)`` is how many characters and tokens of text fit in a chunk that starts there.

    A single sentence is always taken, so every sentence must fit alone (``flow_of`` sees to it).
    """
    spent = [0, *accumulate(a + b for a, b in zip(flow.tokens, flow.glue, strict=True))]
    section_ends = _section_ends(flow.section)
    start = 0
    while start < len(flow):
        section = flow.section[start]
        inside = flow.inside(start)
        size, most = room(section, inside)
        first = start
        while flow.inside(first) and flow.inside(first - 1) and flow.ends[start - 1] - flow.starts[first - 1] <= overlap:
            first -= 1
        while first < start and not _fits(flow, spent, first, start + 1, size, most):
            first += 1
        last = start + 1
        while last < len(flow) and _fits(flow, spent, first, last + 1, size, most):
            last += 1
        last = _good_end(flow, section_ends, first, start, last, size)
        end = last == len(flow) or flow.section[last] != flow.section[last - 1]
        yield Chunk(first, last, start - first, end, spent[last] - spent[first] - flow.glue[first])
        start = last


def _fits(flow: Flow, spent: list[int], first: int, last: int, size: int, most: int) -> bool:
    return flow.ends[last - 1] - flow.starts[first] <= size and spent[last] - spent[first] - flow.glue[first] <= most


def _good_end(flow: Flow, section_ends: list[int], first: int, start: int, last: int, size: int) -> int:
    """Where to end a chunk that could hold the sentences up to ``last``."""
    if last == len(flow):
        return last
    begin = flow.starts[first]
    full = flow.ends[last - 1] - begin
    paragraph = 0
    for k in range(last, start, -1):
        fill = (flow.ends[k - 1] - begin) / full
        if fill < _SECTION_FILL:
            break
        if flow.section[k] != flow.section[k - 1]:
            return k
        if not paragraph and flow.opens[k] and fill >= _PARAGRAPH_FILL:
            paragraph = k
    last = _not_leading(flow, start, paragraph or last)
    rest_ends = section_ends[last - 1]
    if flow.ends[rest_ends - 1] - flow.starts[last] < _REST * size:
        half = (begin + flow.ends[rest_ends - 1]) // 2
        while last - 1 > start and flow.ends[last - 2] >= half:
            last -= 1
    return _not_leading(flow, start, last)


def _not_leading(flow: Flow, start: int, last: int) -> int:
    """``last``, or an earlier sentence where the one before it does not lead to the next."""
    end = last
    while end - 1 > start and flow.leads[end - 1]:
        end -= 1
    return last if flow.leads[end - 1] else end


def _section_ends(section: list[int]) -> list[int]:
    """For each sentence, the number of the first sentence after its section."""
    ends = [len(section)] * len(section)
    for k in range(len(section) - 2, -1, -1):
        ends[k] = ends[k + 1] if section[k] == section[k + 1] else k + 1
    return ends
