"""One paper to its examples: flow, chunks, prompts, provenance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from papertune.dataset.chunks import cut
from papertune.dataset.flow import CLOSING, Flow, flow_of
from papertune.dataset.read import Block, Paper
from papertune.dataset.tokens import TokenCounter
from papertune.family import Family
from papertune.records import Example

_ENDS = 2  # begin and end token, kept free in every chunk
_FEWEST = 3  # sections that make a table of contents
_NUMBER = re.compile(r"(?:\d{1,2}(?:\.\d{1,2})*\.?|[IVX]+\.)\s+")
_NO_SECTIONS = frozenset({"abstract", "summary", "keywords", "highlights"})
_PROMPT_SHARE = 0.5  # of the tokens at most; the rest is for text


@dataclass(frozen=True, slots=True)
class Shape:
    """What chunks must fit: characters of text, characters repeated from the chunk before, tokens of everything the model sees.

    ``contents``: an example with the paper's table of contents comes before the chunks.
    """

    size: int
    overlap: int
    max_tokens: int
    contents: bool = False


def examples_of(paper: Paper, blocks: list[Block], shape: Shape, count: TokenCounter, family: Family) -> Iterator[tuple[Example, int]]:
    """The examples made of these blocks of the paper, in order, each with its tokens including prompt, begin and end token."""
    if shape.contents and (made := _contents(paper, blocks, count, family)) and made[1] <= shape.max_tokens:
        yield made
    most = int(shape.max_tokens * (1 - _PROMPT_SHARE)) - _ENDS
    flow = flow_of(blocks, count, shape.size, most)
    prompts = _Prompts(paper.title, flow, shape.max_tokens, count, family)
    chunks = cut(flow, size=shape.size, overlap=shape.overlap, room=prompts.room)
    for number, chunk in enumerate(chunks):
        start, end = flow.starts[chunk.first], flow.ends[chunk.last - 1]
        section = flow.section[chunk.first]
        inside = chunk.first > 0 and flow.section[chunk.first - 1] == section
        prompt, cost = prompts.of(section, inside)
        example = Example(
            id=f"{paper.name}#{number:04d}",
            paper=paper.name,
            text=flow.text[start:end],
            prompt=prompt,
            end=chunk.end and flow.text[end - 1] in CLOSING,  # a section cut off in mid-sentence by a false heading has no true end
            source=paper.source,
            sha256=paper.sha256,
            pages=flow.pages(start, end),
            span=flow.span(start, end),
        )
        yield example, chunk.tokens + cost + _ENDS


def _contents(paper: Paper, blocks: list[Block], count: TokenCounter, family: Family) -> tuple[Example, int] | None:
    """Title → the sections' headings, numbered; None for a paper without a title or with hardly any sections."""
    names = (_NUMBER.sub("", block.text).strip() for block in blocks if block.level == 1)
    headings = [name for name in dict.fromkeys(names) if name and name.lower() not in _NO_SECTIONS]
    if not paper.title or len(headings) < _FEWEST:
        return None
    prompt = family.opening(paper.title, ("Contents",))
    text = "\n".join(f"{k}. {heading}" for k, heading in enumerate(headings, 1))
    example = Example(f"{paper.name}#contents", paper.name, text, prompt, True, paper.source, paper.sha256)
    return example, count(prompt + text) + _ENDS


class _Prompts:
    """The prompt of each section, with what it costs. A prompt that takes too many tokens loses first the title, then the outer headings."""

    def __init__(self, title: str, flow: Flow, max_tokens: int, count: TokenCounter, family: Family) -> None:
        self._title, self._flow, self._max, self._count, self._family = title, flow, max_tokens, count, family
        self._made: dict[tuple[int, bool], tuple[str, int]] = {}

    def of(self, section: int, inside: bool) -> tuple[str, int]:
        made = self._made.get((section, inside))
        if made is None:
            made = self._made[section, inside] = self._make(self._flow.paths[section], inside)
        return made

    def room(self, section: int, inside: bool) -> int:
        """Tokens left for text."""
        return self._max - _ENDS - self.of(section, inside)[1]

    def _make(self, path: tuple[str, ...], inside: bool) -> tuple[str, int]:
        choices = [(self._title, path), *(("", path[k:]) for k in range(len(path) + 1))]
        for title, headings in choices:
            prompt = self._family.opening(title, headings, inside=inside)
            cost = self._count(prompt) + 1 if prompt else 0  # the text's first word may cost more right after a line end
            if cost <= self._max * _PROMPT_SHARE:
                return prompt, cost
        return "", 0
