"""The page: a head that lets nothing in from elsewhere, what there is to know first, then the sections."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from importlib import resources

from papertune import __version__
from papertune.report.facts import Absent, Corpus, Dataset, Evaluation, Facts, Gguf, Training
from papertune.report.markup import Content, Markup, document, element, stylesheet
from papertune.report.parts import figures, name
from papertune.report.sections import copies, corpus, dataset, export, provenance, results, samples, settings, training
from papertune.report.words import DASH, count, fixed, short, signed, size

_SECTIONS = (
    (results.ID, results.TITLE, results.results),
    (samples.ID, samples.TITLE, samples.samples),
    (copies.ID, copies.TITLE, copies.copies),
    (corpus.ID, corpus.TITLE, corpus.corpus),
    (dataset.ID, dataset.TITLE, dataset.dataset),
    (training.ID, training.TITLE, training.training),
    (export.ID, export.TITLE, export.export),
    (provenance.ID, provenance.TITLE, provenance.provenance),
    (settings.ID, settings.TITLE, settings.settings),
)


def page(facts: Facts) -> str:
    """The whole page as text. The same facts give the same bytes."""
    css = (resources.files("papertune.report") / "style.css").read_text(encoding="utf-8")
    main = element("main", [make(facts) for _, _, make in _SECTIONS])
    body = element("body", element("a", "Skip to the results", href=f"#{results.ID}", class_="skip"), _header(facts), main, _footer(facts))
    return document(element("html", _head(css, _title(facts)), body, lang="en"))


def _head(css: str, title: str) -> Markup:
    """Nothing but the page's own style sheet may be used, whatever got into the page."""
    allowed = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        stylesheet(css),
    )


def _title(facts: Facts) -> str:
    gguf = next((gguf for gguf in facts.ggufs if isinstance(gguf, Gguf)), None)
    return f"{gguf.name}: report" if gguf else "papertune report"


def _header(facts: Facts) -> Markup:
    gguf = next((gguf for gguf in facts.ggufs if isinstance(gguf, Gguf)), None)
    title = name(gguf.name) if gguf else "A model in the making"
    links = [element("li", element("a", title, href=f"#{id}")) for id, title, _ in _SECTIONS]
    return element(
        "header",
        element("p", "papertune report", class_="kicker"),
        element("h1", title),
        element("p", _subtitle(facts), class_="lead"),
        figures(headline) if (headline := _headline(facts)) else None,
        _steps(facts),
        element("nav", element("ul", links), aria_label="Sections"),
    )


def _subtitle(facts: Facts) -> str:
    if isinstance(facts.evaluation, Evaluation):
        return results.verdict(facts.evaluation)
    if isinstance(facts.training, Training) and facts.training.bits:
        return "It is trained. Whether it got better on papers it has never seen has not been measured yet."
    return "There is no trained model yet."


def _headline(facts: Facts) -> list[tuple[str, Content]]:
    """The few figures that are asked for first."""
    pairs: list[tuple[str, Content]] = []
    if isinstance(facts.evaluation, Evaluation) and facts.evaluation.changes:
        change = facts.evaluation.changes[0].texts[facts.evaluation.kinds[0]]
        pairs.append(("Held-out bits", DASH if change.percent is None else f"{signed(change.percent, 1)} %"))
    elif isinstance(facts.training, Training) and facts.training.bits:
        bits = facts.training.bits
        pairs.append(("Held-out bits per byte", f"{fixed(bits['before'], 2)} → {fixed(bits['after'], 2)}"))
    if isinstance(facts.corpus, Corpus):
        pairs += [("Papers read", count(sum(f.words is not None for f in facts.corpus.files))), ("Words", short(facts.corpus.words))]
    if isinstance(facts.dataset, Dataset):
        pairs.append(("Training tokens", short(facts.dataset.train.tokens)))
    pairs += [(f"Model, {gguf.quant}", size(gguf.size)) for gguf in facts.ggufs[:1] if isinstance(gguf, Gguf)]
    return pairs


def _steps(facts: Facts) -> Markup:
    """Which steps are done, in order; what to run for those that are not stands in their sections."""
    gguf = next((gguf for gguf in facts.ggufs if isinstance(gguf, Gguf)), facts.ggufs[0])
    done = (
        ("Extract", corpus.ID, not isinstance(facts.corpus, Absent)),
        ("Prepare", dataset.ID, not isinstance(facts.dataset, Absent)),
        ("Train", training.ID, isinstance(facts.training, Training) and bool(facts.training.run)),
        ("Export", export.ID, isinstance(gguf, Gguf)),
        ("Evaluate", results.ID, not isinstance(facts.evaluation, Absent)),
    )
    items = [
        element("li", element("a", title, href=f"#{id}"), " ", element("span", "done" if is_done else "not yet"), class_=None if is_done else "open")
        for title, id, is_done in done
    ]
    return element("ol", items, class_="steps", aria_label="Steps of the run")


def _footer(facts: Facts) -> Markup:
    when = datetime.fromtimestamp(facts.newest, UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0") if facts.newest else ""
    return element(
        "footer",
        element("p", f"Made by papertune {__version__}", f" from files of {when}" if when else "", ". This page needs no network and asks for none."),
    )
