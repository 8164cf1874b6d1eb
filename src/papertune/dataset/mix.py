"""What the model learns from: ``--mix``.

Running text is learnt once whatever the mix; the mix says what stands before it, and which structure of the paper is learnt besides.

    continuation   the rest: text after the paper's title and its own headings alone
    section        text after the paper so far, in the very prompt of ``papertune write``
    next           a section with its heading, after the end of the section before
    outline        the list of the paper's sections, after its title, or title and abstract
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

from papertune.errors import BadValue

_REMEDY = "Name shares from 0 to 1, such as --mix section=0.3,next=0.1,outline=1, or --mix continuation for running text alone."


@dataclass(frozen=True, slots=True)
class Mix:
    """``section`` and ``next`` are shares of the sections, ``outline`` is a share of the papers."""

    section: float = 0.0
    next: float = 0.0
    outline: float = 0.0

    @classmethod
    def of(cls, words: Iterable[str]) -> Self:
        """From words such as ``section=0.3``; a name alone is a share of 1, ``continuation`` what is left. Raises BadValue."""
        known = {field.name for field in fields(cls)}
        shares: dict[str, float] = {}
        for word in words:
            name, equals, figure = word.partition("=")
            if name == "continuation" and not equals:
                continue
            try:
                share = float(figure) if equals else 1.0
            except ValueError:
                share = -1.0
            if name not in known or not 0 <= share <= 1:
                raise BadValue(f"--mix: {word!r} is not a share of {', '.join(sorted(known))}.", _REMEDY)
            shares[name] = share
        mix = cls(**shares)
        if mix.section + mix.next > 1:
            raise BadValue("--mix: section and next are more than all sections together.", _REMEDY)
        return mix

    def kind(self, paper: str, section: int) -> str:
        """How this section is learnt: ``section``, ``next`` or ``continuation``."""
        place = _draw(f"{paper} {section}")
        return "section" if place < self.section else "next" if place < self.section + self.next else "continuation"

    def has_outline(self, paper: str) -> bool:
        return _draw(f"{paper} outline") < self.outline

    def shows_abstract(self, paper: str) -> bool:
        """Whether the outline is learnt after title and abstract, as with half of the papers, not after the title alone."""
        return _draw(f"{paper} abstract") < 0.5


def _draw(name: str) -> float:
    """A number from 0 to 1 that depends on the name alone, so that a paper is learnt in the same way whatever else there is."""
    digest = hashlib.blake2b(name.encode("utf-8", "backslashreplace"), digest_size=7, person=b"papertune mix").digest()
    return int.from_bytes(digest, "little") / (1 << 56)
