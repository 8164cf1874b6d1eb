"""The front of a paper: a cover before it, its one title, an abstract that no heading names, licences and addresses."""

from __future__ import annotations

from collections.abc import Sequence

from papertune.extract.layout import patterns
from papertune.extract.layout.features import continues, stopwords
from papertune.extract.layout.numbering import number_of
from papertune.extract.layout.setting import Body, Row
from papertune.records import Kind

TITLE_PITCH = 1.7  # font sizes between the baselines of a title's lines
LEAST_TITLE = 12  # letters
LEAST_NAMED = 25  # characters of a title that a cover names
LEAST_ABSTRACT = 300  # characters
PROSE = 0.25  # of its words are such as "the"


def with_front(kinds: list[Kind], rows: Sequence[Row], body: Body) -> list[Kind]:
    """The kinds, those of the first page put right."""
    if not rows:
        return kinds
    cover = _cover(rows, body)
    covers: list[Kind] = ["author"] * cover
    return covers + _with_abstract_and_notices(_with_one_title(kinds[cover:], rows[cover:], body), rows[cover:], body)


def _with_abstract_and_notices(kinds: list[Kind], rows: Sequence[Row], body: Body) -> list[Kind]:
    """On the first page, a licence or an address in small type is no text in any of its lines, nor are affiliations above the first heading; and
    prose among the authors is the abstract, where no heading names one."""
    runs: list[list[int]] = []
    begins = next((index for index, kind in enumerate(kinds) if kind == "heading"), 0)
    named = False
    for index, row in enumerate(rows):
        if row.line.page != rows[0].line.page:
            continue
        named = named or bool(kinds[index] == "heading" and patterns.ABSTRACT.match(row.line.text))
        if kinds[index] in ("author", "paragraph"):
            if runs and runs[-1][-1] == index - 1 and continues(rows[index - 1], row):
                runs[-1].append(index)
            else:
                runs.append([index])
    for run in runs:
        text = " ".join(rows[index].line.text for index in run)
        small = rows[run[0]].line.size < 0.95 * body.size
        affiliation = run[-1] < begins and len(text) < LEAST_ABSTRACT and patterns.AFFILIATION.search(text)
        if affiliation or (small and patterns.LICENCE.search(text)):
            found: Kind = "author"
        elif all(kinds[index] == "author" for index in run) and _is_abstract(text) and not named:
            found = "paragraph"
        else:
            continue
        for index in run:
            kinds[index] = found
    return kinds


def _is_abstract(text: str) -> bool:
    return len(text) >= LEAST_ABSTRACT and stopwords(text) >= PROSE and patterns.NOTICE.search(text) is None


def _cover(rows: Sequence[Row], body: Body) -> int:
    """How many rows stand on a cover: a first page without headings that names the title set large on the second."""
    end = next((index for index, row in enumerate(rows) if row.line.page != rows[0].line.page), 0)
    title = "".join(rows[end + index].line.text for index in _largest(rows[end:], body))
    cover = "".join(row.line.text for row in rows[:end])
    names = len(title) >= LEAST_NAMED and _letters(title) in _letters(cover)
    return end if names and not any(patterns.SECTION.fullmatch(row.line.text) for row in rows[:end]) else 0


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text)).lower()


def _with_one_title(kinds: list[Kind], rows: Sequence[Row], body: Body) -> list[Kind]:
    """Of all that was taken for a title, the longest, and what is set like it above and below; else what is set largest on the first page."""
    chosen = _longest(_runs([index for index, kind in enumerate(kinds) if kind == "title"], rows), rows)
    if not chosen:
        sections = (index for index, kind in enumerate(kinds) if kind == "heading" and _names_section(rows[index].line.text))
        chosen = _largest(rows[: next(sections, len(rows))], body)
    if chosen:
        page = [index for index, row in enumerate(rows) if row.line.page == rows[chosen[0]].line.page]
        for at in [*reversed(page), *page]:
            if at not in chosen and any(_one_title(rows[at], rows[index]) for index in chosen):
                chosen.append(at)
    title = set(chosen)
    return ["title" if index in title else "author" if kind == "title" else kind for index, kind in enumerate(kinds)]


def _largest(rows: Sequence[Row], body: Body) -> list[int]:
    """What is set largest on the page of the first row; empty when that is hardly larger than the text."""
    possible = [index for index, row in enumerate(rows) if row.line.page == rows[0].line.page and not _no_title(row.line.text)]
    largest = max((rows[index].line.size for index in possible if rows[index].line.letters >= LEAST_TITLE), default=0.0)
    if largest < 1.15 * body.size:
        return []
    return _longest(_runs([index for index in possible if rows[index].line.size > 0.95 * largest], rows), rows)


def _runs(indices: Sequence[int], rows: Sequence[Row]) -> list[list[int]]:
    """The rows in runs that may each be one title."""
    runs: list[list[int]] = []
    for index in (index for index in indices if not _no_title(rows[index].line.text)):
        if runs and _one_title(rows[index], rows[runs[-1][-1]]):
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _longest(runs: Sequence[list[int]], rows: Sequence[Row]) -> list[int]:
    """The run with the most letters; empty when it has too few."""

    def letters(run: list[int]) -> int:
        return sum(rows[index].line.letters for index in run)

    best = max(runs, key=letters, default=[])
    return best if letters(best) >= LEAST_TITLE else []


def _one_title(row: Row, other: Row) -> bool:
    """Whether two rows are set as lines of one title; others may stand between them in reading order."""
    line, above = row.line, other.line
    near = line.page == above.page and 0 < abs(line.baseline - above.baseline) < TITLE_PITCH * line.size
    beside = min(line.right, above.right) > max(line.left, above.left)
    like = abs(line.size - above.size) < 0.6 and (line.bold > 0.5) == (above.bold > 0.5)
    return near and beside and like and not _no_title(line.text)


def _names_section(text: str) -> bool:
    return patterns.SECTION.fullmatch(text) is not None or number_of(text) is not None


def _no_title(text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in (patterns.ARTICLE_TYPE, patterns.SECTION, patterns.JOURNAL))
