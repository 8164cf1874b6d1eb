"""One paper to its examples: outline, flow, chunks, provenance."""

from __future__ import annotations

from collections.abc import Iterator

from papertune import prompts
from papertune.dataset.chunks import cut
from papertune.dataset.flow import CLOSING, flow_of
from papertune.dataset.openings import ENDS, PROMPT_SHARE, Openings, Shape, plain
from papertune.dataset.read import Block, Paper
from papertune.dataset.tokens import TokenCounter
from papertune.records import Example

_FEWEST = 3  # sections that make an outline
_ABSTRACTS = frozenset({"abstract", "summary"})
_NO_SECTIONS = _ABSTRACTS | {"keywords", "highlights"}


def examples_of(paper: Paper, blocks: list[Block], shape: Shape, count: TokenCounter) -> Iterator[tuple[Example, int]]:
    """The examples made of these blocks of the paper, in order, each with its tokens including prompt, begin and end token."""
    if shape.mix.has_outline(paper.name) and (made := _outline(paper, blocks, shape, count)):
        yield made
    most = int(shape.max_tokens * (1 - PROMPT_SHARE)) - ENDS
    flow = flow_of(blocks, count, shape.size, most)
    openings = Openings(paper, flow, shape, count)
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
    names = (plain(block.text) for block in blocks if block.level == 1)
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
        if block.level and plain(block.text).lower() in _ABSTRACTS:
            behind = next((j for j in range(k + 1, len(blocks)) if blocks[j].level), len(blocks))
            return "\n\n".join(block.text for block in blocks[k + 1 : behind])
    return ""
