"""One paper to its examples: flow, chunks, prompts, provenance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from papertune import prompts
from papertune.dataset.chunks import cut
from papertune.dataset.flow import CLOSING, Flow, flow_of
from papertune.dataset.mix import Mix
from papertune.dataset.read import Block, Paper
from papertune.dataset.tokens import TokenCounter
from papertune.family import MISTRAL
from papertune.records import Example

ENDS = 2  # begin and end token, kept free in every chunk
_FEWEST = 3  # sections that make an outline
_NUMBER = re.compile(r"(?:\d{1,2}(?:\.\d{1,2})*\.?|[IVX]+\.)\s+")
_ABSTRACTS = frozenset({"abstract", "summary"})
_NO_SECTIONS = _ABSTRACTS | {"keywords", "highlights"}
_PROMPT_SHARE = 0.5  # of the tokens at most; the rest is for text
_CONTEXT_SHARE = 0.25  # of the tokens, for a prompt with the paper so far


@dataclass(frozen=True, slots=True)
class Shape:
    """What chunks must fit: characters of text, characters repeated from the chunk before, tokens of everything the model sees; and what
    stands before them."""

    size: int
    overlap: int
    max_tokens: int
    mix: Mix = Mix()


@dataclass(frozen=True, slots=True)
class Opening:
    """What comes before a chunk's first sentence: ``prompt``, and the last ``head`` characters before it, headings which are learnt with the
    text. ``cost`` is the tokens of both."""

    prompt: str = ""
    cost: int = 0
    head: int = 0


def examples_of(paper: Paper, blocks: list[Block], shape: Shape, count: TokenCounter) -> Iterator[tuple[Example, int]]:
    """The examples made of these blocks of the paper, in order, each with its tokens including prompt, begin and end token."""
    if shape.mix.has_outline(paper.name) and (made := _outline(paper, blocks, shape, count)):
        yield made
    most = int(shape.max_tokens * (1 - _PROMPT_SHARE)) - ENDS
    flow = flow_of(blocks, count, shape.size, most)
    openings = _Openings(paper, flow, shape, count)
    for number, chunk in enumerate(cut(flow, overlap=shape.overlap, room=openings.room)):
        opening = openings.of(flow.section[chunk.first], flow.inside(chunk.first))
        start, end = flow.starts[chunk.first] - opening.head, flow.ends[chunk.last - 1]
        example = Example(
            id=f"{paper.name}#{number:04d}",
            paper=paper.name,
            text=flow.text[start:end],
            prompt=opening.prompt,
            end=chunk.end and flow.text[end - 1] in CLOSING,  # a section cut off in mid-sentence by a false heading has no true end
            source=paper.source,
            sha256=paper.sha256,
            pages=flow.pages(start, end),
            span=flow.span(start, end),
        )
        yield example, chunk.tokens + opening.cost + ENDS


def _outline(paper: Paper, blocks: list[Block], shape: Shape, count: TokenCounter) -> tuple[Example, int] | None:
    """Title, or title and abstract for every other paper, → the sections' headings, numbered.

    None for a paper without a title or with hardly any sections, or where it does not fit: an outline is never cut off.
    """
    names = (_plain(block.text) for block in blocks if block.level == 1)
    headings = [name for name in dict.fromkeys(names) if name and name.lower() not in _NO_SECTIONS]
    if not paper.title or len(headings) < _FEWEST:
        return None
    text = "\n".join(f"{k}. {heading}" for k, heading in enumerate(headings, 1))
    abstract = _abstract(blocks) if shape.mix.shows_abstract(paper.name) else ""
    for prompt in dict.fromkeys((prompts.outline(paper.title, abstract), prompts.outline(paper.title))):
        cost = count(prompt + text) + ENDS
        if cost <= shape.max_tokens:
            return Example(f"{paper.name}#outline", paper.name, text, prompt, True, paper.source, paper.sha256), cost
    return None


def _abstract(blocks: list[Block]) -> str:
    """The text under the heading "Abstract", "" where there is none."""
    for k, block in enumerate(blocks):
        if block.level and _plain(block.text).lower() in _ABSTRACTS:
            behind = next((j for j in range(k + 1, len(blocks)) if blocks[j].level), len(blocks))
            return "\n\n".join(block.text for block in blocks[k + 1 : behind])
    return ""


def _plain(heading: str) -> str:
    """A heading without its number, as a person names a section."""
    return _NUMBER.sub("", heading).strip()


class _Openings:
    """What comes before each section's beginning, and before its further chunks.

    Title and headings that take too many tokens lose first the title, then the outer headings.
    """

    def __init__(self, paper: Paper, flow: Flow, shape: Shape, count: TokenCounter) -> None:
        self._paper, self._flow, self._shape, self._count = paper, flow, shape, count
        self._paths = [tuple(_plain(heading) or heading for heading in path) for path in flow.paths]
        self._made: dict[tuple[int, bool], Opening] = {}

    def of(self, section: int, inside: bool) -> Opening:
        made = self._made.get((section, inside))
        if made is None:
            made = self._made[section, inside] = self._make(section, inside)
        return made

    def room(self, section: int, inside: bool) -> tuple[int, int]:
        """Characters and tokens left for text."""
        opening = self.of(section, inside)
        return self._shape.size - opening.head, self._shape.max_tokens - ENDS - opening.cost

    def _make(self, section: int, inside: bool) -> Opening:
        if section and self._paper.title and self._paths[section]:
            kind = self._shape.mix.kind(self._paper.name, section)
            made = self._after_all(section, inside) if kind == "section" else self._after_last(section) if kind == "next" and not inside else None
            if made:
                return made
        path = self._paths[section]
        for title, headings in [(self._paper.title, path), *(("", path[k:]) for k in range(len(path) + 1))]:
            prompt = MISTRAL.opening(title, headings, inside=inside)
            if (cost := self._cost(prompt)) <= self._shape.max_tokens * _PROMPT_SHARE:
                return Opening(prompt, cost)
        return Opening()

    def _after_all(self, section: int, inside: bool) -> Opening | None:
        """The prompt of ``papertune write``: the paper so far, as much of it as its share of the tokens holds."""
        path = self._paths[section]
        groups: list[list[int]] = []  # the sections up to this one, by their outermost heading
        for k in range(section + 1):
            if groups and len(self._paths[k]) > 1 and self._paths[k][:1] == self._paths[k - 1][:1]:
                groups[-1].append(k)
            else:
                groups.append([k])
        *earlier, own = groups
        first = self._flow.firsts
        before = [(self._paths[of[0]][0], self._flow.sentence(first[of[0]])) for of in earlier[:-1] if self._paths[of[0]]]
        before += [(self._paths[of[0]][0], self._text(of[0], of[-1])) for of in earlier[-1:] if self._paths[of[0]]]
        written = self._text(own[0], own[-2]) if len(own) > 1 else ""
        room = int(self._shape.max_tokens * _CONTEXT_SHARE)
        prompt = prompts.section(self._paper.title, before, path, written, room=room, count=self._count) + prompts.GAP * inside
        cost = self._cost(prompt)
        return Opening(prompt, cost) if cost <= self._shape.max_tokens * _PROMPT_SHARE else None

    def _after_last(self, section: int) -> Opening | None:
        """The end of the section before; this one's headings are learnt."""
        flow, first, path = self._flow, self._flow.firsts[section], self._paths[section - 1]
        head = flow.starts[first] - flow.heads[section]
        if not path or not head or head + flow.ends[first] - flow.starts[first] > self._shape.size:
            return None
        before = MISTRAL.opening(self._paper.title, path)
        end = prompts.tail(self._text(section - 1, section - 1), int(self._shape.max_tokens * _CONTEXT_SHARE) - self._count(before), self._count)
        prompt = f"{before}{end}\n\n"
        cost = self._cost(prompt) + self._cost(flow.text[flow.heads[section] : flow.starts[first]])
        return Opening(prompt, cost, head) if end and cost <= self._shape.max_tokens * _PROMPT_SHARE else None

    def _text(self, first: int, last: int) -> str:
        """The text of these sections, without headings before it."""
        flow = self._flow
        behind = flow.firsts[last + 1] if last + 1 < len(flow.firsts) else len(flow)
        return flow.text[flow.starts[flow.firsts[first]] : flow.ends[behind - 1]]

    def _cost(self, prompt: str) -> int:
        return self._count(prompt) + 1 if prompt else 0  # the text's first word may cost more right after a line end
