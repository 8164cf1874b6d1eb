"""What several papers have in common: the terms that stand out in them, with the pages they stand on."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from papertune.analyze.paper import Paper

_TERMS = 12
_TERM = re.compile(r"[^\W\d_]{3,}(?:-[^\W\d_]+)*")
# Words that say nothing of a paper's subject, however often they meet.
_COMMON = frozenset(
    re.findall(
        r"\w+",
        """
        about after also although among been before being between both can could did does during each either found from given had has have
        however into its may might more most not number only other our over present reported respectively same several should showed shown
        significant significantly some study such than that the their them then there therefore these they this those through thus under used
        using was were when where whereas which while will with within without would
        """,
    )
)


@dataclass(frozen=True, slots=True)
class Theme:
    """A term of two words, and for each paper that has it (by number) the first pages it stands on."""

    term: str
    pages: dict[int, list[int]]


def themes(papers: Sequence[Paper]) -> list[Theme]:
    """The pairs of neighbouring words that at least two of the papers use most above what chance would give, best first.

    A pair's weight in a paper is its count times how much oftener it comes than its two words would meet by chance (as a logarithm); over
    papers the smaller weights decide, so that one paper's pet term is no common theme.
    """
    weights: defaultdict[str, dict[int, float]] = defaultdict(dict)
    places: defaultdict[str, defaultdict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for number, paper in enumerate(papers):
        words: Counter[str] = Counter()
        pairs: Counter[tuple[str, str]] = Counter()
        for paragraph in paper.paragraphs:
            found = [word.lower() for word in _TERM.findall(paragraph.text)]
            words.update(found)
            for pair in pairwise(found):
                pairs[pair] += 1
                if paragraph.pages:
                    places[" ".join(pair)][number].add(paragraph.pages[0])
        total = max(1, sum(words.values()))
        for (a, b), count in pairs.items():
            surprise = math.log(count * total / (words[a] * words[b]))
            if count > 1 and surprise > 0 and not {a, b} & _COMMON:
                weights[f"{a} {b}"][number] = count * surprise
    shared = [(sorted(of.values())[-2], term) for term, of in weights.items() if len(of) > 1]
    best = [term for _, term in sorted(shared, key=lambda pair: (-pair[0], pair[1]))[:_TERMS]]
    return [Theme(term, {number: sorted(places[term][number])[:3] for number in sorted(weights[term])}) for term in best]
