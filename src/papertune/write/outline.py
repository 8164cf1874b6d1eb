"""The headings of an article: given by the user, or asked of the model, or the usual ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from papertune import prompts
from papertune.errors import BadValue
from papertune.sampling import Sampling
from papertune.writers import Writer

USUAL = ("Introduction", "Background", "Methods", "Results", "Discussion", "Conclusions")
_LEAST, _MOST = 4, 9  # headings of an outline by the model that is taken
_LENGTH = 160  # tokens the model may spend on it
_MARK = re.compile(r"^\s*(?:#+|[-*+•]|\d+(?:\.\d+)*[.)]?)\s+")
_NUMBERED = re.compile(r"^\s*\d+[.)]\s+(.+?)\s*$", re.MULTILINE)
_NO_SECTIONS = {"references", "bibliography", "acknowledgements", "acknowledgments", "contents", "appendix"}


def read_outline(path: Path) -> tuple[str, ...]:
    """The headings in a file, one a line; list marks, numbers and ``##`` before them are taken off. Raises BadValue."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadValue(f"--outline {path} cannot be read: {error}.", "Name a text file with one heading a line.") from error
    headings = clean(_MARK.sub("", line) for line in lines)
    if not headings:
        raise BadValue(f"--outline {path} holds no heading.", "Write one heading a line.")
    return headings


def clean(headings: Iterable[str]) -> tuple[str, ...]:
    """Headings without extra spaces, empty ones and repetitions."""
    return tuple(dict.fromkeys(" ".join(h.split()) for h in headings if h.strip()))


def ask(writer: Writer, title: str, sampling: Sampling) -> tuple[str, ...] | None:
    """The table of contents that the model writes under the title; None when it is no usable one."""
    prompt = f"{prompts.outline(title)}1. {USUAL[0]}\n2."
    answer = "".join(writer.write(prompt, sampling, min(_LENGTH, writer.context // 4)))
    lines = answer.split("\n\n")[0].split("\n")
    if len(lines) > 1:
        lines.pop()  # it may be cut off
    headings = clean([USUAL[0], *_NUMBERED.findall("\n".join(["2." + lines[0], *lines[1:]]))])
    usable = [h for h in headings if _is_heading(h)][:_MOST]
    if len(usable) < _LEAST:
        return None
    return tuple(usable) if "conclu" in usable[-1].lower() else (*usable, USUAL[-1])


def _is_heading(text: str) -> bool:
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return 1 <= len(text.split()) <= 10 and letters >= 0.85 * len(text) and text[0].isalnum() and text.lower() not in _NO_SECTIONS
