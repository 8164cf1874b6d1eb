"""Of which pages the fast engine should not be believed, and who could do better.

* A page that is *unread* has a picture over most of it and no text but perhaps a stamp, or characters that mean nothing (a font without a table of
  what its glyphs stand for): text recognition reads what can be seen.
* A page is *unsure* when the labels given to its lines are improbable: a layout that was not among those learned from. Docling's model has seen
  others.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from papertune.extract.layout import Layout
from papertune.extract.layout.lines import Page

LEAST_CERTAINTY = 0.7
"""Mean probability of the labels, each line counted by its letters; see ``docs/experiments.md``."""

LEAST_LETTERS = 200
"""On fewer letters no page is judged: a plate, a last page with two references."""

MOST_MEANINGLESS = 0.1
"""Share of a page's characters without a meaning."""

_MEANINGLESS = re.compile("[\x01\x03-\x08\x0e-\x1f\ue000-\uefff\uf100-\uf8ff\ufffd]")  # pdfium's \x02 is a hyphen, U+F0xx the Symbol font


def unread_pages(pages: Sequence[Page]) -> tuple[int, ...]:
    """Numbers of the pages that show text which is not in the file, or not as text."""
    return tuple(page.number for page in pages if page.picture or _garbled(page))


def unsure_pages(layout: Layout) -> tuple[int, ...]:
    """Numbers of the pages whose lines may not be what they are taken for."""
    letters: defaultdict[int, int] = defaultdict(int)
    certain: defaultdict[int, float] = defaultdict(float)
    for row, certainty in zip(layout.rows, layout.certainty, strict=True):
        letters[row.line.page] += row.line.letters
        certain[row.line.page] += row.line.letters * certainty
    return tuple(page for page, count in letters.items() if count >= LEAST_LETTERS and certain[page] < LEAST_CERTAINTY * count)


def _garbled(page: Page) -> bool:
    text = "".join(span.text for span in page.upright)
    return len(text) >= LEAST_LETTERS and len(_MEANINGLESS.findall(text)) > MOST_MEANINGLESS * len(text)
