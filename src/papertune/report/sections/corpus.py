"""The corpus: which files were read, which were not and why, how much text there is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from papertune.report.charts import bar, histogram, nice_step
from papertune.report.facts import Absent, Corpus, Facts, InputFile
from papertune.report.markup import Content, Markup, element
from papertune.report.parts import figures, long_list, missing, name, section, sha, table
from papertune.report.words import DASH, count, counted, size

ID, TITLE = "corpus", "Corpus"
_BINS = 24
_STATES = {
    "ok": "read",
    "partial": "read in part",
    "duplicate": "the same bytes as another file",
    "too_short": "less text than --min-length",
    "no_text": "scans without a text layer",
    "needs_password": "locked by a password",
    "drm": "e-books locked to a reader",
    "not_pdf": "no PDF, whatever the name says",
    "not_epub": "no EPUB, whatever the name says",
    "damaged": "damaged",
    "limit_time": "took longer than --timeout",
    "limit_memory": "took more than --memory-limit",
    "limit_size": "too large",
    "crash": "every reader crashed on it",
    "unreadable": "could not be opened",
    "changed": "written to while it was read",
    "started": "being read when papertune ended",
    "waiting": "not read yet",
}
_READ = ("ok", "partial")


def corpus(facts: Facts) -> Markup:
    if isinstance(facts.corpus, Absent):
        return missing(ID, TITLE, facts.corpus)
    found = facts.corpus
    read = [file for file in found.files if file.words is not None]
    lead = f"{count(len(read))} of {counted(len(found.files), 'file')} gave text: {counted(found.words, 'word')} on {counted(found.pages, 'page')}."
    return section(ID, TITLE, lead, _states(found), _lengths(read), _engines(read), _left_out(found), _files(found))


def state_in_words(state: str) -> str:
    return _STATES.get(state, state)


def _states(found: Corpus) -> Markup | None:
    states = found.states
    if not set(states) - {"ok"}:
        return None  # the sentence above says it all
    most = max(states.values())
    rows = [
        (state_in_words(state), bar(number / most, "" if state in _READ else "lost"), count(number))
        for state, number in sorted(states.items(), key=lambda item: (item[0] not in _READ, -item[1]))
    ]
    return table(("Files", "(drawn to scale)", "Number"), rows, caption="Files by what became of them", kinds="tcn")


def _lengths(read: Sequence[InputFile]) -> Markup | None:
    lengths = [file.words for file in read if file.words is not None]
    if len(lengths) < 2:
        return None
    counts, bounds = binned(lengths)
    median = sorted(lengths)[len(lengths) // 2]
    summary = f"Histogram of {len(lengths)} texts by their words: from {min(lengths):,} to {max(lengths):,}, half of them below {median:,}."
    return histogram("Length of the texts", "words", counts, bounds, words=count, summary=summary, table=bins_table(counts, bounds, "Words", "Texts"))


def binned(values: Sequence[int], bins: int = _BINS) -> tuple[list[int], list[int]]:
    """Counts and bounds of at most ``bins`` bins of a round width from 0 on."""
    width = math.ceil(nice_step((max(values) + 1) / bins))
    counts = [0] * (max(values) // width + 1)
    for value in values:
        counts[value // width] += 1
    return counts, [k * width for k in range(len(counts) + 1)]


def bins_table(counts: Sequence[int], bounds: Sequence[int], what: str, which: str) -> Markup:
    rows = [(f"{low:,}{DASH}{high - 1:,}", count(number)) for number, (low, high) in zip(counts, pairwise(bounds), strict=True) if number]
    return table((what, which), rows, caption=f"{which} by {what.lower()}", kinds="nn")


def _engines(read: Sequence[InputFile]) -> Markup:
    engines = Counter(file.engine for file in read if file.engine)
    pages: list[tuple[str, Content]] = [(f"Read by {engine}", counted(number, "file")) for engine, number in engines.most_common()]
    return figures([*pages, ("On disk", size(sum(file.size for file in read)))])


def _left_out(found: Corpus) -> Markup | None:
    lost = sorted((file for file in found.files if file.state not in _READ), key=lambda file: (file.state, file.name))
    lost += [file for file in found.files if file.state == "partial"]
    if not lost:
        return None
    rows = [(name(file.name), state_in_words(file.state), name(file.reason)) for file in lost]
    summary = f"Left out or read in part: {counted(len(lost), 'file')}"
    return long_list(summary, ("File", "Because", "Details"), rows, kinds="ttt", rest=str(found.folder / ".resume.json"))


def _files(found: Corpus) -> Markup:
    rows = [
        (
            [name(file.title or file.name), element("small", name(file.name), class_="under") if file.title else None],
            count(file.pages) if file.pages else DASH,
            DASH if file.words is None else count(file.words),
            sha(file.sha256),
        )
        for file in sorted(found.files, key=lambda file: file.name)
    ]
    heads = ("File", "Pages", "Words", "SHA-256")
    return long_list(f"All {counted(len(rows), 'file')}", heads, rows, kinds="tnnt", rest=str(found.folder / ".resume.json"))
