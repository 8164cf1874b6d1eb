"""The dataset: what the model learnt from, what it was measured on, what was left out and why."""

from __future__ import annotations

from collections.abc import Sequence

from papertune.dataset.filters import REASONS
from papertune.dataset.outputs import LEFT_OUT, LENGTH_STEP
from papertune.report.charts import bar, histogram
from papertune.report.facts import Absent, Dataset, Examples, Facts
from papertune.report.markup import Content, Markup, element
from papertune.report.parts import long_list, missing, name, section, table
from papertune.report.sections.corpus import bins_table
from papertune.report.words import DASH, count, counted, percent

ID, TITLE = "dataset", "Dataset"
_STATES = {"train": "for training", "val": "held out for validation", **LEFT_OUT}


def dataset(facts: Facts) -> Markup:
    if isinstance(facts.dataset, Absent):
        return missing(ID, TITLE, facts.dataset)
    found = facts.dataset
    states = found.states
    lead = (
        f"{counted(states['train'], 'paper')} to learn from, {counted(states['val'], 'paper')} held out. "
        "No paper, and no group of papers that share text, stands on both sides."
    )
    return section(ID, TITLE, lead, _sides(found), _lengths(found), _left_out(found), _dropped(found), _copies(found), _papers(found))


def _sides(found: Dataset) -> Markup:
    total = found.train.examples + found.val.examples
    rows = [
        (label, count(found.states[state]), count(side.examples), count(side.tokens), percent(side.examples / total, 1) if total else DASH)
        for label, state, side in (("Training", "train", found.train), ("Validation", "val", found.val))
    ]
    return table(("For", "Papers", "Examples", "Tokens", "Share"), rows, caption="Training and validation", kinds="tnnnn")


def _lengths(found: Dataset) -> Markup | None:
    counts = found.train.lengths
    if not sum(counts):
        return None
    bounds = [k * LENGTH_STEP for k in range(len(counts) + 1)]
    summary = f"Histogram of {counted(found.train.examples, 'training example')} by tokens: {_mean(found.train):,.0f} on average."
    numbers = bins_table(counts, bounds, "Tokens", "Examples")
    return histogram("Length of the training examples", "tokens", counts, bounds, words=count, summary=summary, table=numbers)


def _mean(side: Examples) -> float:
    return side.tokens / side.examples if side.examples else 0.0


def _left_out(found: Dataset) -> Markup | None:
    lost = [(state, number) for state, number in found.states.most_common() if state not in ("train", "val")]
    if not lost:
        return None
    return _bars("Papers left out", "Papers", [(LEFT_OUT.get(state, state), number, "") for state, number in lost])


def _dropped(found: Dataset) -> Markup | None:
    if not found.dropped:
        return None
    rows = [(REASONS.get(reason, reason), paragraphs, f"{count(characters)} characters") for reason, paragraphs, characters in found.dropped]
    return _bars("Paragraphs left out", "Paragraphs", sorted(rows, key=lambda row: -row[1]))


def _bars(title: str, what: str, rows: Sequence[tuple[str, int, str]]) -> Markup:
    most = max(number for _, number, _ in rows)
    cells = [([why, element("small", more, class_="under") if more else None], bar(n / most, "lost"), count(n)) for why, n, more in rows]
    return element("div", element("h3", title), table(("Because", "(drawn to scale)", what), cells, caption=f"{title}, by reason", kinds="tcn"))


def _copies(found: Dataset) -> Markup | None:
    copies = [paper for paper in found.papers if paper.of]
    if not copies:
        return None
    rows = [(name(paper.name), name(paper.of), DASH if paper.shared is None else percent(paper.shared)) for paper in copies]
    heads = ("Paper", "Stands in", "Of its text")
    return long_list(f"Duplicates: {counted(len(copies), 'paper')}", heads, rows, kinds="ttn", rest=str(found.folder / "dataset.json"))


def _papers(found: Dataset) -> Markup:
    """Held-out papers first: what the figures are of."""
    ordered = sorted(found.papers, key=lambda paper: (paper.state != "val", paper.state != "train", paper.state, paper.name))
    rows: list[tuple[Content, ...]] = [(name(paper.name), _STATES.get(paper.state, paper.state), count(paper.examples)) for paper in ordered]
    return long_list(
        f"All {counted(len(rows), 'paper')}", ("Paper", "Used", "Examples"), rows, kinds="ttn", rest=str(found.folder / "dataset.json")
    )
