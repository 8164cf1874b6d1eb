"""A paper as one flow of sentences: the text to cut, where each sentence stands in it, and what each costs.

The flow's text is what the paper's ``.txt`` says, less the blocks that were dropped. Offsets here are into that text; ``Flow.span`` leads
back to the file's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from papertune.dataset.read import Block, Pages
from papertune.dataset.sentences import sentence_ends
from papertune.dataset.tokens import TokenCounter

Path = tuple[str, ...]  # headings from the section down to the subsection
_SHORT = 100  # characters of a line that may be a heading which extraction took for text
CLOSING = ".?!…;\"'”’)]0123456789"

Piece = tuple[int, int, int]  # start, end, tokens


@dataclass(slots=True)
class Flow:
    """Parallel lists with an entry a sentence, headings being glue between sentences, never sentences themselves.

    ``starts``, ``ends``: offsets in ``text``. ``tokens``: what the sentence costs alone. ``glue``: what it costs more when something stands
    before it in a chunk (blank line, headings). ``section``: number of its section. ``opens``: it begins a paragraph. ``leads``: it is a
    line such as "Statistical analysis" that leads to what follows. ``paths``: the headings above each section, ``heads``: where the first of
    them that is new stands in ``text``, or the section's first sentence, ``firsts``: that sentence's number.
    """

    text: str = ""
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    glue: list[int] = field(default_factory=list)
    section: list[int] = field(default_factory=list)
    opens: list[bool] = field(default_factory=list)
    leads: list[bool] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    _blocks: list[tuple[int, Block]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.starts)

    def sentence(self, k: int) -> str:
        return self.text[self.starts[k] : self.ends[k]]

    def inside(self, k: int) -> bool:
        """Whether sentence ``k`` is not the first of its section."""
        return k > 0 and self.section[k - 1] == self.section[k]

    def replace(self, k: int, pieces: list[Piece]) -> None:
        """Puts several pieces in the place of sentence ``k``."""
        more = len(pieces) - 1
        self.firsts = [first + more * (first > k) for first in self.firsts]
        self.starts[k : k + 1] = [start for start, _, _ in pieces]
        self.ends[k : k + 1] = [end for _, end, _ in pieces]
        self.tokens[k : k + 1] = [tokens for _, _, tokens in pieces]
        self.glue[k + 1 : k + 1] = [0] * more
        self.section[k + 1 : k + 1] = [self.section[k]] * more
        self.opens[k + 1 : k + 1] = [False] * more
        self.leads[k:k] = [False] * more

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The characters of the file from which ``text[start:end]`` was made; equal to them where nothing was dropped or unwrapped."""
        at, first = self._block(start)
        to, last = self._block(end - 1)
        exact_first, exact_last = len(first.text) == first.end - first.start, len(last.text) == last.end - last.start
        return first.start + (start - at) * exact_first, last.start + end - to if exact_last else last.end

    def pages(self, start: int, end: int) -> Pages | None:
        """First and last page of ``text[start:end]``; None when any part is of an unknown page."""
        first = bisect_right(self._blocks, start, key=_offset) - 1
        last = bisect_right(self._blocks, end - 1, key=_offset)
        pages = [block.pages for _, block in self._blocks[first:last] if not block.level]
        known = [p for p in pages if p is not None]
        return (min(p[0] for p in known), max(p[1] for p in known)) if known and len(known) == len(pages) else None

    def _block(self, offset: int) -> tuple[int, Block]:
        return self._blocks[bisect_right(self._blocks, offset, key=_offset) - 1]


def _offset(entry: tuple[int, Block]) -> int:
    return entry[0]


def flow_of(blocks: Iterable[Block], count: TokenCounter, longest: int, most_tokens: int) -> Flow:
    """The flow of these blocks. Sentences over ``longest`` characters or ``most_tokens`` are halved until they fit."""
    flow = Flow()
    parts: list[str] = []
    at = 0
    path: list[tuple[int, str, int]] = []  # level, words and place of each heading above
    behind = 0  # the end of the section before
    lead = ""  # what stands between the sentence before and the one to come
    fresh = True  # a section begins
    for block in blocks:
        if block.level:
            while path and path[-1][0] >= block.level:
                path.pop()
            path.append((block.level, block.text, at))
            flow._blocks.append((at, block))
            parts.append("#" * (block.level + 1) + " " + block.text + "\n\n")
            lead += parts[-1]
            at += len(parts[-1])
            fresh = True
            continue
        if fresh:
            flow.paths.append(tuple(text for _, text, _ in path))
            flow.heads.append(next((place for _, _, place in path if place >= behind), at))
            flow.firsts.append(len(flow))
            fresh = False
        flow._blocks.append((at, block))
        parts.append(block.text + "\n\n")
        ends = sentence_ends(block.text)
        starts = [0, *(_next_word(block.text, end) for end in ends[:-1])]
        word = block.text.partition(" ")[0]
        flow.starts += [at + start for start in starts]
        flow.ends += [at + end for end in ends]
        flow.glue += [count("\n\n" + lead + word) - count(word)] + [0] * (len(ends) - 1)
        flow.section += [len(flow.paths) - 1] * len(ends)
        flow.opens += [True] + [False] * (len(ends) - 1)
        flow.leads += [False] * (len(ends) - 1) + [_leads(block.text, starts[-1])]
        lead = ""
        at += len(parts[-1])
        behind = at
    flow.text = "".join(parts)
    flow.tokens = count.sentences(flow.text, flow.starts, flow.ends)
    for k in range(len(flow) - 1, -1, -1):
        if flow.ends[k] - flow.starts[k] > longest or flow.tokens[k] > most_tokens:
            flow.replace(k, _fitting(flow.text, flow.starts[k], flow.ends[k], count, longest, most_tokens))
    return flow


def _next_word(text: str, end: int) -> int:
    while text[end].isspace():
        end += 1
    return end


def _leads(text: str, last: int) -> bool:
    """Whether a paragraph, whose last sentence begins at ``last``, ends as a heading or an announcement does."""
    return text[-1] == ":" or (last == 0 and len(text) < _SHORT and text[-1] not in CLOSING)


def _fitting(text: str, start: int, end: int, count: Callable[[str], int], longest: int, most_tokens: int) -> list[Piece]:
    """The sentence in several pieces, cut at a clause, a space or anywhere, when it is too long."""
    cost = count(text[start:end])
    if (end - start <= longest and cost <= most_tokens) or end - start < 2:
        return [(start, end, cost)]
    middle = (start + end) // 2
    quarter = (end - start) // 4
    for mark in ("; ", ", ", " "):
        cut = text.rfind(mark, middle - quarter, middle + quarter)
        if cut > start:
            cut += len(mark) - 1
            return [
                *_fitting(text, start, cut, count, longest, most_tokens),
                *_fitting(text, cut + 1, end, count, longest, most_tokens),
            ]
    return [*_fitting(text, start, middle, count, longest, most_tokens), *_fitting(text, middle, end, count, longest, most_tokens)]
