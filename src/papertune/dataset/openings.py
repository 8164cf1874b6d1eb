"""What stands before a chunk's text: title and headings, or the paper so far, as the mix says."""

from __future__ import annotations

import re
from dataclasses import dataclass

from papertune import prompts
from papertune.dataset.flow import Flow
from papertune.dataset.mix import Mix
from papertune.dataset.read import Paper
from papertune.dataset.tokens import TokenCounter
from papertune.family import MISTRAL

ENDS = 2  # begin and end token, kept free in every chunk
PROMPT_SHARE = 0.5  # of the tokens at most; the rest is for text
_CONTEXT_SHARE = 0.25  # of the tokens, for a prompt with the paper so far
_LEAST = 4  # tokens that a section takes in such a prompt at least
_NUMBER = re.compile(
    r"(?:\d{1,2}(?:\.\d{1,2})+\.?|\d{1,2}[.)]|[ivx]+\)"
    r"|(?:\d{1,2}|[IVX]+\.(?:\d{1,2}\.?)*)(?=\s+(?:\|\s+)?[^\W\d_a-z]))"  # with less to go by, only before a capital: not "12 weeks", "X. laevis"
    r"(?:\s+\|)?\s+"
)


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


def plain(heading: str) -> str:
    """A heading without its number, as a person names a section."""
    number = _NUMBER.match(heading)
    return heading[number.end() if number else 0 :].strip()


class Openings:
    """What comes before each section's beginning, and before its further chunks.

    Title and headings that take too many tokens lose first the title, then the outer headings.
    """

    def __init__(self, paper: Paper, flow: Flow, shape: Shape, count: TokenCounter) -> None:
        self._paper, self._flow, self._shape, self._count = paper, flow, shape, count
        self._paths = [tuple(plain(heading) or heading for heading in path) for path in flow.paths]
        self._made: dict[tuple[int, bool], Opening] = {}
        self._groups: list[int] = []  # the first section under each outermost heading
        self._group: list[int] = []  # the group of each section
        for k, path in enumerate(self._paths):
            if not k or len(path) < 2 or path[:1] != self._paths[k - 1][:1]:
                self._groups.append(k)
            self._group.append(len(self._groups) - 1)

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
            if (cost := self._cost(prompt)) <= self._shape.max_tokens * PROMPT_SHARE:
                return Opening(prompt, cost)
        return Opening()

    def _after_all(self, section: int, inside: bool) -> Opening | None:
        """The prompt of ``papertune write``: the paper so far, as much of it as its share of the tokens holds."""
        room = int(self._shape.max_tokens * _CONTEXT_SHARE)
        path, firsts, own = self._paths[section], self._flow.firsts, self._group[section]
        starts = [k for k in self._groups[max(0, own - room // _LEAST) : own] if self._paths[k]]
        before = [(self._paths[k][0], self._flow.sentence(firsts[k])) for k in starts]
        if own and self._paths[last := self._groups[own - 1]]:
            before[-1] = (before[-1][0], self._text(last, self._groups[own] - 1))
        written = self._text(self._groups[own], section - 1) if section > self._groups[own] else ""
        prompt = prompts.section(self._paper.title, before, path, written, room=room, count=self._count) + prompts.GAP * inside
        cost = self._cost(prompt)
        return Opening(prompt, cost) if cost <= self._shape.max_tokens * PROMPT_SHARE else None

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
        return Opening(prompt, cost, head) if end and cost <= self._shape.max_tokens * PROMPT_SHARE else None

    def _text(self, first: int, last: int) -> str:
        """The text of these sections, without headings before it."""
        flow = self._flow
        behind = flow.firsts[last + 1] if last + 1 < len(flow.firsts) else len(flow)
        return flow.text[flow.starts[flow.firsts[first]] : flow.ends[behind - 1]]

    def _cost(self, prompt: str) -> int:
        return self._count(prompt) + 1 if prompt else 0  # the text's first word may cost more right after a line end
