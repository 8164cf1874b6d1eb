"""Sections of held-out papers written anew by the base model and by the tuned model, in an order that is told after one was chosen.

No script is needed: a chosen radio button shows what follows it, and CSS counters add the choices up. Copies are highlighted then too, since they
would give away which model wrote them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from papertune.report.facts import Absent, Continuation, Evaluation, Facts, Sample
from papertune.report.markup import Content, Markup, element
from papertune.report.parts import folded, name, not_yet, section, table
from papertune.report.sections.results import short_name
from papertune.report.words import DASH, count, counted, percent

ID, TITLE = "samples", "Read it blind"
_OPEN = 4  # samples that are there without being asked for
_KINDS = {"base": "the base model", "tuned": "the tuned model"}


def samples(facts: Facts) -> Markup:
    if isinstance(facts.evaluation, Absent):
        return section(ID, TITLE, None, not_yet(facts.evaluation.why, facts.evaluation.command))
    evaluation = facts.evaluation
    if not evaluation.samples:
        return section(ID, TITLE, None, not_yet(f"{evaluation.file} holds no samples.", "papertune evaluate"))
    lead = (
        "Given title and headings of a held-out paper, the base model wrote one of these texts and the tuned model the other. "
        "Choose the one you would rather have written; then you are told which is which."
    )
    cards = [_card(k, sample) for k, sample in enumerate(evaluation.samples, 1)]
    more = folded(f"{counted(len(cards) - _OPEN, 'more sample')}", cards[_OPEN:]) if len(cards) > _OPEN else None
    blind = element("div", cards[:_OPEN], more, _tally(len(cards)), class_="blind")
    return section(ID, TITLE, lead, blind, _styles(evaluation))


def _styles(evaluation: Evaluation) -> Markup:
    rows = [
        (
            name(short_name(style)),
            count(style.words),
            percent(style.repeated, 1),
            percent(style.distinct),
            DASH if style.ended is None else f"{style.ended[0]} of {style.ended[1]}",
        )
        for style in evaluation.styles
    ]
    heads = ("Writer", "Words", "Repeated", "Distinct", "Ended")
    note = (
        "Over all sections written: mean words; runs of four words that had stood in the same text before; pairs of words that are different; "
        "texts that the model ended by itself."
    )
    title = "How they write"
    return element("div", element("h3", title), table(heads, rows, caption=title, kinds="tnnnn"), element("p", note, class_="note"))


def order(sample: Sample) -> tuple[str, str]:
    """Which model's text stands first: by chance, but the same in every report of these samples."""
    digest = hashlib.sha256(f"{sample.prompt}\0{sample.base.text}\0{sample.tuned.text}".encode("utf-8", "replace")).digest()
    return ("base", "tuned") if digest[0] % 2 else ("tuned", "base")


def marked(text: str, copies: Iterable[tuple[int, int, int, str]]) -> list[Content]:
    """The text with its copied spans highlighted, each followed by where it stands."""
    parts: list[Content] = []
    at = 0
    for start, end, tokens, origin in copies:
        start, end = max(at, start), min(len(text), end)
        if start < end:
            source = element("small", f" [{tokens} tokens: {origin}]", class_="origin")
            parts += [name(text[at:start]), element("mark", text[start:end]), source]
            at = end
    return [*parts, name(text[at:])]


def _card(number: int, sample: Sample) -> Markup:
    texts = {"base": sample.base, "tuned": sample.tuned}
    first, second = order(sample)
    return element(
        "article",
        element("h3", f"Sample {number}", element("span", " from ", name(sample.paper), class_="unit")),
        element("blockquote", _lines(sample.prompt), class_="prompt"),
        element("div", _text("A", texts[first]), _text("B", texts[second]), class_="pair"),
        _choice(number, first, second),
        folded("What the paper's author wrote", element("blockquote", sample.original)),
        class_="sample",
    )


def _lines(prompt: str) -> list[Content]:
    """The prompt, whose light Markdown has its headings on lines of their own."""
    lines = [line for line in prompt.splitlines() if line.strip()]
    return [element("b", line.lstrip("# ")) if line.startswith("#") else element("span", line) for line in lines]


def _text(letter: str, continuation: Continuation) -> Markup:
    body = marked(continuation.text, continuation.copies) if continuation.text.strip() else element("i", "It wrote nothing.")
    return element("div", element("h4", letter), element("blockquote", body))


def _choice(number: int, first: str, second: str) -> Markup:
    """The radio buttons and, right behind them, what is shown once one is chosen."""
    options: list[Content] = []
    for letter, kind, label in (("a", first, "A"), ("b", second, "B"), ("n", "even", "No difference")):
        id = f"sample-{number}-{letter}"
        options += [element("input", type="radio", name=f"sample-{number}", id=id, class_=f"pick {kind}"), element("label", label, for_=id)]
    answer = element("p", f"A is by {_KINDS[first]}, B by {_KINDS[second]}.", class_="answer")
    return element("fieldset", element("legend", "Which would you rather have written?"), options, answer)


def _tally(samples: int) -> Markup:
    """Counted by the style sheet as buttons are pressed."""
    counts: list[Content] = []
    for kind, words in (("tuned", "Your choices: tuned model "), ("base", ", base model "), ("even", ", no difference ")):
        counts += [words, element("span", class_=f"count-{kind}")]
    return element("p", counts, f", of {counted(samples, 'sample')}. They are not kept.", class_="tally")
