"""The states a file can end in. Every input file ends in exactly one of them, with a reason in words beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from papertune.supervise import Outcome

State = Literal[
    "ok",
    "partial",  # some pages or chapters are missing from the text
    "duplicate",  # the same bytes as another input file, which was read
    "too_short",  # less running text than --min-length
    "no_text",  # scanned pages without a text layer
    "needs_password",
    "drm",  # an EPUB locked to a reader
    "not_pdf",
    "not_epub",
    "damaged",
    "limit_time",
    "limit_memory",
    "limit_size",
    "crash",  # every backend died on it, or papertune itself was ended by it again and again
    "unreadable",  # no permission, not a regular file, vanished
    "changed",  # another program wrote to it while it was read
]
STATES: tuple[State, ...] = get_args(State)

WRITTEN: frozenset[State] = frozenset({"ok", "partial"})
"""States with a text on disk."""

FAULTS_OF_BACKEND: frozenset[State] = frozenset({"damaged", "crash", "limit_time", "limit_memory"})
"""States in which another backend may do better."""

INCONCLUSIVE: frozenset[State] = frozenset({"no_text", "too_short"})
"""States that a fallback's word is not taken for: it may have found nothing because the file broke the backend before it."""

PASSING: frozenset[State] = frozenset({"unreadable", "changed"})
"""States that say nothing of the content: looked at anew in every run."""


@dataclass(slots=True)
class Tally:
    """How many files ended in each state, and the first few names of each."""

    counts: Counter[State] = field(default_factory=Counter)
    names: dict[State, list[str]] = field(default_factory=dict)

    def add(self, state: State, name: str) -> None:
        self.counts[state] += 1
        if self.counts[state] <= _SHOWN:
            self.names.setdefault(state, []).append(name)

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def texts(self) -> int:
        """Files that have a text."""
        return sum(self.counts[state] for state in WRITTEN)

    def __str__(self) -> str:
        return ", ".join(f"{self.counts[state]} {state}" for state in STATES if self.counts[state])

    def table(self) -> list[tuple[str, str]]:
        """(state, how many and which) for the files without a text."""
        return [(state, first_few(self.names[state], self.counts[state])) for state in STATES if self.counts[state] and state not in WRITTEN]


_SHOWN = 3  # names in a row of a table


def first_few(names: Sequence[str], count: int = 0) -> str:
    """How many and the first three, of ``count`` names if not all of them are given: "5: a.pdf, b.pdf, c.pdf and 2 more"."""
    count = count or len(names)
    more = count - min(count, _SHOWN)
    return f"{count}: {', '.join(names[:_SHOWN])}{f' and {more} more' if more else ''}"


def state_of(outcome: Outcome) -> State:
    """The state for a task that gave no answer of its own."""
    match outcome.status:
        case "timeout":
            return "limit_time"
        case "memory":
            return "limit_memory"
        case "killed":
            return "crash"
        case _:  # an exception the backend did not foresee: the parser tripped over the file
            return "damaged"
