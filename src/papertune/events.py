"""How a step talks: events while it runs, a report when it ends. A step itself prints nothing.

``run(config, *, on_event=ignore) -> Report`` is the protocol of every step. ``on_event`` is called on the caller's thread, and after each
finished unit of work with ``Unit``. If it raises, the step stops there, its finished work stays on disk, and the exception goes on to
the caller: this is how the first Ctrl-C ends a run between two units (see ``cli``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Started:
    """Work of ``total`` units begins, of which ``done`` were finished by an earlier run; ``total`` is None when unknown.

    ``uneven``: the first units tell nothing of how long the others take; each says itself what is left, once that is known.
    """

    title: str
    total: int | None
    unit: str
    done: int = 0
    uneven: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit was finished: ``done`` of the ``total`` last announced. ``figures`` are shown beside the bar, in order.

    ``left`` is how many seconds the rest will take, where the step knows better than that units take equally long.
    """

    done: int
    label: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    left: float | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should read once: a choice made, a fallback taken, a warning."""

    text: str
    level: str = "info"  # or "warning"


Event = Started | Unit | Notice
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The default ``on_event``."""


@dataclass(slots=True)
class Report:
    """What a step did. ``summary`` are (name, figure) pairs for people, ``closing`` those to end with.

    ``next_command`` is what to type next, as a verb of ``papertune``. ``states`` counts the units by the state they ended in: ``ok``,
    ``fresh`` (nothing to do) or a reason for failing.
    """

    step: str
    written: list[Path] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    summary: list[tuple[str, str]] = field(default_factory=list)
    closing: list[tuple[str, str]] = field(default_factory=list)
    next_command: str = ""
    fresh: bool = False
