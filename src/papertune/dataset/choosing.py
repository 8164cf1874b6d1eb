"""What can be decided only when all papers are known: which are kept, what they repeat, and on which side of the split each goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from papertune.dataset.duplicates import Copy, kinship, repeated_paragraphs
from papertune.dataset.fingerprints import Hashes
from papertune.dataset.partitions import Partitions
from papertune.dataset.split import rank
from papertune.dataset.writing import Entry


@dataclass(slots=True)
class Choice:
    """``left_out``: number of a paper → why. ``group``: number → name of its group, whose papers go to one side. ``drops``: number → the
    paragraphs it repeats. ``copies``: the duplicates found, by the papers' numbers."""

    language: str
    left_out: dict[int, str] = field(default_factory=dict)
    group: dict[int, str] = field(default_factory=dict)
    drops: dict[int, dict[int, str]] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)


def choose(entries: Sequence[Entry], samples: Partitions, paragraphs: Partitions, shingles_of: Callable[[int], Hashes], seed: int) -> Choice:
    """The decisions over papers in the order of the corpus, whose numbers are their places in it.

    ``samples`` and ``paragraphs`` are sampled shingles and hashes of paragraphs, each with the number of a paper that has it.
    """
    choice = Choice(_main_language(entries))
    for k, entry in enumerate(entries):
        if not len(entry):
            choice.left_out[k] = "empty"
        elif entry.language and entry.language != choice.language:
            choice.left_out[k] = "language"
    numbers = [k for k in range(len(entries)) if k not in choice.left_out]
    kin = kinship(samples, {k: entries[k].size for k in numbers}, shingles_of)
    choice.copies = kin.copies
    choice.left_out |= {copy.paper: "duplicate" for copy in kin.copies}
    members: dict[int, list[str]] = {}
    for k, group in kin.group.items():
        members.setdefault(group, []).append(entries[k].name)
    names = {group: min(of, key=lambda name: rank(name, seed)) for group, of in members.items()}
    choice.group = {k: names[group] for k, group in kin.group.items()}
    choice.drops = repeated_paragraphs(paragraphs, [k for k in numbers if k not in choice.left_out])
    return choice


def _main_language(entries: Sequence[Entry]) -> str:
    """The language of most of the text."""
    sizes: Counter[str] = Counter()
    for entry in entries:
        if entry.language:
            sizes[entry.language] += entry.size
    return min(sizes, key=lambda name: (-sizes[name], name), default="")
