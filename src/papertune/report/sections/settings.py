"""The settings that each step ran with, as the steps recorded them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from papertune.report import parts
from papertune.report.facts import Corpus, Dataset, Evaluation, Facts, Gguf, Training
from papertune.report.markup import Markup

ID, TITLE = "settings", "Settings"


def settings(facts: Facts) -> Markup:
    steps = list(_steps(facts))
    lead = "As the steps recorded them." if steps else "No step has recorded any yet."
    return parts.section(ID, TITLE, lead, [parts.folded(title, parts.settings(values, title)) for title, values in steps])


def _steps(facts: Facts) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(facts.corpus, Corpus):
        yield "papertune extract", facts.corpus.settings
    if isinstance(facts.dataset, Dataset):
        yield "papertune prepare", facts.dataset.settings
    if isinstance(facts.training, Training) and facts.training.run:
        yield "papertune train", facts.training.run
    for gguf in facts.ggufs:
        if isinstance(gguf, Gguf):
            yield f"papertune export: {gguf.file}", {"quant": gguf.quant, **gguf.provenance}
    if isinstance(facts.evaluation, Evaluation):
        yield "papertune evaluate", {"context": facts.evaluation.context, "seed": facts.evaluation.seed}
