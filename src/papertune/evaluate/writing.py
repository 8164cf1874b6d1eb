"""How a model writes: whether it ends, how long it goes on, how much it repeats itself.

Every model writes the same sections of the held-out papers anew, given title and headings alone, drawn as ``papertune write`` draws. Beside
it stand the papers' authors, under the same headings. Each text is one unit of the journal.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from papertune.config import EvaluateConfig
from papertune.evaluate.passages import Paper
from papertune.evaluate.perplexity import Model
from papertune.evaluate.subjects import Subject, Subjects
from papertune.events import Notice, OnEvent, Started, Unit
from papertune.family import MISTRAL
from papertune.manifest import Manifest, key_of
from papertune.repetition import distinct, rep, words_of
from papertune.sampling import Sampling

CODE_VERSION = 1
"""Raised when this module would write or count something else for the same input."""

MOST = 384  # tokens a model may write of one section, in three quarters of its window at most
_SHORTEST, _LONGEST = 30, 170  # words of an author's section: well below MOST, so that a model has room to go on too long
_HEADING = re.compile(r"^(#+) .*\n\n", re.MULTILINE)
_CONTENTS = MISTRAL.opening("", ("Contents",))  # an outline, no section
_NEXT = re.compile(r"(?:^|\n)[ \t]*#")  # a model that begins another section has ended this one
ENDS = ("end", "heading", "cut")  # the model ended the text; it began the next section; it was stopped


@dataclass(frozen=True, slots=True)
class Section:
    """``prompt`` is title and headings, ``text`` what the paper's author has under them, to the end."""

    paper: str
    prompt: str
    text: str


def write_sections(
    config: EvaluateConfig, subjects: Subjects, papers: Sequence[Paper], manifest: Manifest, on_event: OnEvent
) -> dict[str, Any] | None:
    """As ``writing`` of ``evaluation.json`` has it (``docs/formats.md``); None when there is nothing to write."""
    if not config.sections:
        return None
    sections = choose(papers, config.sections, config.seed)
    if not sections:
        on_event(Notice(f"No held-out paper has a section of {_SHORTEST} to {_LONGEST} words, so no model was made to write one."))
        return None
    keys = {(s.name, i): _key(s, section, config, i) for s in subjects.all for i, section in enumerate(sections)}
    missing = [s for s in subjects.all if any(keys[s.name, i] not in manifest.items for i in range(len(sections)))]
    done = sum(key in manifest.items for key in keys.values())
    on_event(Started("Writing", len(keys), "sections", done))
    with closing(subjects.opened(missing)) as opened:
        for subject, model in opened:
            for i, section in enumerate(sections):
                key = keys[subject.name, i]
                if key not in manifest.items:
                    manifest.record(key, model=subject.name, paper=section.paper, **write(model, section.prompt, _sampling(config, i)))
                    done += 1
                    on_event(Unit(done, f"{subject.name}: {section.paper}"))
    models = []
    for subject in subjects.all:
        texts = [{key: manifest.items[keys[subject.name, i]][key] for key in ("text", "end")} for i in range(len(sections))]
        ends = {end: sum(text["end"] == end for text in texts) for end in ENDS}
        models.append({"name": subject.name, **_figures([text["text"] for text in texts]), "ends": ends, "texts": texts})
    return {
        "most_tokens": MOST,
        "sampling": asdict(_sampling(config, 0)),
        "sections": [asdict(section) for section in sections],
        "authors": _figures([section.text for section in sections]),
        "models": models,
    }


def choose(papers: Sequence[Paper], count: int, seed: int) -> list[Section]:
    """``count`` sections, or as many as there are: one of each paper in turn, in an order that ``seed`` decides."""
    queues = []
    for paper in papers:
        sections = [s for s in sections_of(paper) if _SHORTEST <= len(s.text.split()) <= _LONGEST]
        random.Random(f"{seed} {paper.name}").shuffle(sections)
        queues.append(sections)
    rounds = max(map(len, queues), default=0)
    return [queue[k] for k in range(rounds) for queue in queues if k < len(queue)][:count]


def sections_of(paper: Paper) -> list[Section]:
    """The sections of a paper that stand whole, from heading to end, in one of its passages."""
    found: dict[str, Section] = {}
    for passage in paper.passages:
        whole = passage.prompt + passage.text
        heads = list(_HEADING.finditer(whole))
        if not heads:
            continue
        bounds = [*(head.start() for head in heads[1:]), len(whole) if passage.ends else -1]
        path: dict[int, str] = {}  # level → heading
        for head, bound in zip(heads, bounds, strict=True):
            level = len(head[1])
            path = {above: line for above, line in path.items() if above < level} | {level: head[0]}
            text = whole[head.end() : bound].strip() if bound >= 0 else ""
            if text and head[0] != _CONTENTS and MISTRAL.gap not in text.split("\n"):  # the mark that something is left out
                prompt = "".join(path.values())
                found.setdefault(prompt, Section(paper.name, prompt, text))
    return list(found.values())


def write(model: Model, prompt: str, sampling: Sampling) -> dict[str, str]:
    """``text`` of one section, and how it came to its ``end``: one of ENDS."""
    text = ""
    with closing(model.write(prompt, sampling, min(MOST, 3 * model.window // 4))) as stream:
        while True:
            try:
                text += next(stream)
            except StopIteration as stop:
                return {"text": text.strip(), "end": "end" if stop.value else "cut"}
            if following := _NEXT.search(text):
                return {"text": text[: following.start()].strip(), "end": "heading"}


def _figures(texts: Sequence[str]) -> dict[str, float]:
    """Means over the texts; distinct-n over all together."""
    return {
        "words": mean(len(words_of(text)) for text in texts),
        "rep_2": mean(rep(text, 2) for text in texts),
        "rep_4": mean(rep(text, 4) for text in texts),
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
    }


def _sampling(config: EvaluateConfig, section: int) -> Sampling:
    return Sampling(seed=config.seed * 1_000_003 + section)


def _key(subject: Subject, section: Section, config: EvaluateConfig, number: int) -> str:
    settings = {"model": subject.fingerprint, "kind": subject.kind, "sampling": asdict(_sampling(config, number)), "context": config.context}
    return key_of(section.prompt, {**settings, "most": MOST, "what": "section"}, CODE_VERSION)
