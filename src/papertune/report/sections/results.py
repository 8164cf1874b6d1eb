"""Did it get better? The figures before and after, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from papertune.report.charts import Scale, axis, interval, moved, scale
from papertune.report.facts import Absent, Evaluation, Facts, Figure, Model, Style, Training
from papertune.report.markup import Content, Markup, element
from papertune.report.parts import figures, folded, name, not_yet, section, table
from papertune.report.words import DASH, counted, fixed, signed

ID, TITLE = "results", "Did it get better?"
_NAMES = {"base": "Base model", "tuned": "Tuned model", "authors": "The papers' authors"}
_OPEN = 12  # papers that are listed without being asked for
_PLACES = 3


def results(facts: Facts) -> Markup:
    if isinstance(facts.evaluation, Absent):
        return section(ID, TITLE, _seen_in_training(facts.training), not_yet(facts.evaluation.why, facts.evaluation.command))
    evaluation = facts.evaluation
    return section(
        ID,
        TITLE,
        _in_figures(evaluation),
        [_kind(evaluation, kind) for kind in evaluation.kinds],
        element(
            "p",
            "Bits per byte: how many bits a model needs for each byte of text that it has not seen. "
            f"Windows of {evaluation.context:,} tokens. The whiskers and brackets are 95 % intervals, found by drawing papers with replacement.",
            class_="note",
        ),
        folded("What was measured", figures((short_name(model), name(model.name)) for model in evaluation.models)),
    )


def verdict(evaluation: Evaluation) -> str:
    """The first change on held-out papers in a sentence, as far as its interval allows."""
    if not evaluation.changes:
        return "One model was measured, so there is nothing to compare it with yet."
    change = evaluation.changes[0].texts[evaluation.kinds[0]]
    by = f"{fixed(abs(change.percent or 0), 1)} % {'fewer' if change.value < 0 else 'more'} bits"
    if change.low is None or change.high is None:
        return f"The tuned model needs {by} for the one held-out paper. With a single paper there is no telling whether that is chance."
    if change.high < 0:
        return f"Yes. On papers it has never seen, the tuned model needs {by}. The 95 % interval excludes no change."
    if change.low > 0:
        return f"No: it got worse. On papers it has never seen, the tuned model needs {by}, and the 95 % interval excludes no change."
    return f"It cannot be told. On papers it has never seen, the tuned model needs {by}, but the 95 % interval includes no change."


def _in_figures(evaluation: Evaluation) -> str | None:
    """Before and after of the first change, kind by kind; the verdict itself stands at the top of the page."""
    if not evaluation.changes:
        return None
    change = evaluation.changes[0]
    named = {model.name: model for model in evaluation.models}
    parts = []
    for kind in evaluation.kinds:
        before, after = (named[name].texts[kind].figure.value for name in (change.before, change.after))
        parts.append(f"{kind} from {fixed(before, _PLACES)} to {fixed(after, _PLACES)} ({signed(change.texts[kind].percent or 0, 1)} %)")
    return f"Bits per byte went on {' and on '.join(parts)}. Lower is better."


def short_name(model: Model | Style) -> str:
    return _NAMES.get(model.kind, model.name.replace("\\", "/").rsplit("/", 1)[-1])


def _seen_in_training(training: Training | Absent) -> str | None:
    if isinstance(training, Absent) or not training.bits:
        return None
    before, after = training.bits["before"], training.bits["after"]
    return (
        f"During training, held-out examples went from {fixed(before, _PLACES)} to {fixed(after, _PLACES)} bits per byte "
        f"({signed(100 * (after / before - 1), 1)} %), in the 4-bit model that was trained and without an interval."
    )


def _kind(evaluation: Evaluation, kind: str) -> list[Content]:
    """One kind of text: all models on one scale, then paper by paper."""
    models = [(model, model.texts[kind]) for model in evaluation.models]
    shown = [measured.figure for _, measured in models]
    on = scale([value for figure in shown for value in (figure.value, figure.low, figure.high) if value is not None])
    changes = {change.after: change.texts[kind] for change in evaluation.changes}
    rows = [
        (
            _label(model),
            interval(on, measured.figure.value, measured.figure.low, measured.figure.high, model.kind),
            _with_interval(measured.figure),
            _change(changes.get(model.name)),
        )
        for model, measured in models
    ]
    papers = len(models[0][1].papers)
    unit = "paper" if kind == evaluation.kinds[0] else "text"
    heading = element("h3", kind[:1].upper() + kind[1:], " ", element("span", counted(papers, unit), class_="unit"))
    heads = ("Model", "(drawn to scale)", "Bits per byte", "Change")
    foot = ("", axis(on), "", "")
    return [heading, table(heads, rows, caption=f"Bits per byte on {kind}", kinds="tcnn", foot=foot), _papers(evaluation, kind, unit)]


def _papers(evaluation: Evaluation, kind: str, unit: str) -> Markup | None:
    base, tuned = evaluation.model("base"), evaluation.model("tuned")
    if base is None or tuned is None or len(base.texts[kind].papers) < 2:
        return None
    pairs = [(title, before, after) for (title, before), (_, after) in zip(base.texts[kind].papers, tuned.texts[kind].papers, strict=True)]
    pairs.sort(key=lambda pair: pair[2] - pair[1])
    better = sum(after < before for _, before, after in pairs)
    listing = _listing(pairs, scale([value for _, before, after in pairs for value in (before, after)]), unit)
    summary = f"Lower for {better:,} of {counted(len(pairs), unit)}"
    if len(pairs) > _OPEN or kind != evaluation.kinds[0]:
        return folded(f"{summary}: {unit} by {unit}", listing)
    return element("div", element("p", f"{summary}."), listing)


def _listing(pairs: Sequence[tuple[str, float, float]], on: Scale, unit: str) -> Markup:
    rows = [(name(title), moved(on, old, new), f"{fixed(old, 2)} → {fixed(new, 2)}", signed(new - old, 2)) for title, old, new in pairs]
    heads = (unit.capitalize(), "(drawn to scale)", "Before → after", "Change")
    foot = ("", axis(on), "", "")
    return table(heads, rows, caption=f"Bits per byte {unit} by {unit}, before and after", kinds="tcnn", foot=foot)


def _label(model: Model) -> Content:
    return element("bdi", short_name(model))


def _with_interval(figure: Figure) -> Content:
    if figure.low is None or figure.high is None:
        return fixed(figure.value, _PLACES)
    brackets = element("span", f"{fixed(figure.low, _PLACES)}{DASH}{fixed(figure.high, _PLACES)}", class_="brackets")
    return [element("b", fixed(figure.value, _PLACES)), " ", brackets]


def _change(figure: Figure | None) -> Content:
    if figure is None:
        return DASH
    text = signed(figure.value, _PLACES)
    if figure.low is None or figure.high is None:
        return text
    return [text, " ", element("span", f"{signed(figure.low, _PLACES)} to\u00a0{signed(figure.high, _PLACES)}", class_="brackets")]
