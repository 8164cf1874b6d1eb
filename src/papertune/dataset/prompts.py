"""What the model reads before it writes a chunk: the paper's title and the headings it stands under, in the family's prompt format."""

from __future__ import annotations

from papertune.family import Family

GAP = "…"  # the chunk goes on inside a section: text is missing here


def opening(family: Family, title: str, headings: tuple[str, ...], *, inside: bool = False) -> str:
    """``# title``, ``## section``, ``### subsection``, each with a blank line after it; with ``inside``, a line that marks the gap."""
    lines = [family.title.format(title)] if title else []
    lines += ["#" * depth + family.heading.format(heading) for depth, heading in enumerate(headings)]
    if inside:
        lines.append(GAP)
    return "".join(line + "\n\n" for line in lines)
