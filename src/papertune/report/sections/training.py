"""Training: how the losses fell, at which rate, in how much memory, how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from papertune.report.charts import Line, Point, Scale, Words, in_steps, line_chart, scale, span, thinned
from papertune.report.facts import Absent, Facts, Training
from papertune.report.markup import Content, Markup, element
from papertune.report.parts import figures, missing, not_yet, section, table
from papertune.report.words import count, counted, duration, fixed, gib, power, short, size
from papertune.train.fast.plan import Plan, words

ID, TITLE = "training", "Training"
_FINE, _SMOOTH, _ROWS = 400, 40, 20  # points of a raw curve, of a smooth one; rows of the table below


def training(facts: Facts) -> Markup:
    if isinstance(facts.training, Absent):
        return missing(ID, TITLE, facts.training)
    found = facts.training
    unfinished = None if found.run else not_yet("Training has not ended: there is no finished adapter.", "papertune train")
    if not found.steps:
        return section(ID, TITLE, "Training has begun, but no step is done.", unfinished)
    return section(ID, TITLE, _lead(found), unfinished, _losses(found), element("div", _small(found), class_="multiples"), _numbers(found))


def _lead(found: Training) -> str:
    steps = f"{counted(found.steps[-1].number, 'step')}"
    if not found.validations:
        return f"{steps}; not measured on held-out text yet."
    first, last = found.validations[0].bits_per_byte, found.validations[-1].bits_per_byte
    less = f" The adapter applies {found.strength:.0%} of what was learnt: {fixed(found.bits['after'], 3)}." if found.strength < 1 else ""
    return f"{steps}. On held-out examples {fixed(first, 3)} bits per byte before, {fixed(last, 3)} after.{less}"


def _losses(found: Training) -> Markup:
    raw = [(float(step.number), step.loss) for step in found.steps]
    held_out = [(float(v.step), v.loss) for v in found.validations]
    lines = [
        Line(thinned(raw, _FINE), "faint"),
        Line(thinned(raw, _SMOOTH), "tuned", "training"),
        Line(held_out, "held-out", "held-out", dots=True),
    ]
    summary = f"Training loss from {fixed(raw[0][1], 2)} to {fixed(_end(raw), 2)} nats a token over {counted(len(raw), 'step')}."
    if held_out:
        summary += f" Held-out loss from {fixed(held_out[0][1], 2)} to {fixed(held_out[-1][1], 2)}."
    measured = dict(held_out)
    rows = [(count(at), fixed(loss, 3), "") for at, loss in thinned(raw, _ROWS)] if not held_out else _merged(raw, measured)
    numbers = table(("Step", "Training", "Held-out"), rows, caption="Loss in nats a token", kinds="nnn")
    y = scale([value for line in lines for _, value in line.points])
    return line_chart(
        "Loss", "nats a token", lines, _steps(found), y, words=in_steps(y), x_words=count, x_unit="step", summary=summary, table=numbers
    )


def _merged(raw: Sequence[Point], measured: dict[float, float]) -> list[tuple[Content, ...]]:
    """The training loss averaged between validations, beside each validation."""
    rows: list[tuple[Content, ...]] = []
    before = -1.0
    for at, loss in sorted(measured.items()):
        between = [value for step, value in raw if before < step <= at]
        rows.append((count(at), fixed(sum(between) / len(between), 3) if between else "", fixed(loss, 3)))
        before = at
    return rows


def _small(found: Training) -> list[Markup]:
    """The other curves, each on a scale of its own."""
    steps = found.steps
    bits = [(float(v.step), v.bits_per_byte) for v in found.validations]
    rate = [(float(step.number), step.rate) for step in steps]
    speed = [(float(step.number), step.tokens_per_second) for step in steps]
    memory = [(float(step.number), step.memory / (1 << 30)) for step in steps]
    charts = [_one(found, "Held-out text", "bits per byte", bits, lambda v: fixed(v, 3), dots=True)] if bits else []
    return [
        *charts,
        _one(found, "Learning rate", "", rate, power, zero=True, ends=False),
        _one(found, *_memory_name(found), memory, lambda v: fixed(v, 2), zero=True),
        _one(found, "Speed", "tokens a second", speed, short, zero=True),
    ]


def _memory_name(found: Training) -> tuple[str, str]:
    if not found.start:
        return "Memory at its peak", "GiB"
    return ("GPU memory at its peak", "GiB") if found.start.get("gpu_memory") else ("Memory at its peak", "GiB, of the whole process")


def _one(
    found: Training, title: str, unit: str, points: Sequence[Point], words: Words, *, zero: bool = False, dots: bool = False, ends: bool = True
) -> Markup:
    """One curve; ``ends``: its last value stands at its end."""
    values = [value for _, value in points]
    y = scale(values, zero=zero, count=3)
    summary = f"{title}{f', {unit}' if unit else ''}: from {words(values[0])} to {words(values[-1])}, at most {words(max(values))}."
    rows = [(count(at), words(value)) for at, value in thinned(points, _ROWS)]
    numbers = table(("Step", title), rows, caption=f"{title} by step", kinds="nn")
    class_, label = "held-out" if dots else "tuned", words(values[-1]) if ends else ""
    line = Line(thinned(points, _FINE if dots else 4 * _SMOOTH), class_, label, dots)
    ticks = words if words in (power, short) else in_steps(y)
    return line_chart(title, unit, [line], _steps(found), y, words=ticks, x_words=count, x_unit="step", summary=summary, table=numbers)


def _steps(found: Training) -> Scale:
    return span(0, max([found.steps[-1].number, *(v.step for v in found.validations)]))


def _end(points: Sequence[Point]) -> float:
    return thinned(points, _SMOOTH)[-1][1]


def _plan(found: Training) -> str | None:
    """What became of the layers' activations and weights, in the words of the dry run. What another version of papertune said besides is left out."""
    if not found.plan:
        return None
    known = {field.name for field in fields(Plan)}
    plan = Plan(**{name: value for name, value in found.plan.items() if name in known})
    return words(plan, found.plan["layers"])


def _numbers(found: Training) -> Markup:
    peak = max(step.memory for step in found.steps)
    total = found.start.get("gpu_memory") or 0
    where = f" of {gib(total)}" if total else ""
    speed = count(found.tokens / found.seconds) if found.seconds else None
    return figures(
        [
            ("Device", found.start.get("device")),
            ("Engine", found.start.get("engine")),
            ("Plan", _plan(found)),
            ("Steps", count(found.steps[-1].number)),
            ("Tokens", count(found.tokens) if found.tokens else None),
            ("Time in steps", duration(found.seconds) if found.seconds else None),
            ("Tokens a second", speed),
            ("Memory at its peak", f"{gib(peak)}{where}"),
            ("Checkpoints written", count(found.checkpoints)),
            ("LoRA", f"rank {found.rank}, alpha {found.alpha:g}" if found.run else None),
            ("Strength", f"{found.strength:.0%} of what was learnt" if found.strength < 1 else None),
            ("Adapter", size(found.adapter_size) if found.run else None),
        ]
    )
