"""The same beginnings of held-out papers continued by the base model and by the tuned one: figures tell how well, this shows how.

Each text is one unit of the journal, as the measurements are. The same seed draws the same text on the same machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from papertune.config import EvaluateConfig
from papertune.evaluate.models import TorchModel
from papertune.evaluate.passages import Paper, Passage
from papertune.evaluate.subjects import Subject, Subjects
from papertune.events import OnEvent, Started, Unit
from papertune.manifest import Manifest, key_of
from papertune.sampling import Sampling

CODE_VERSION = 1
"""Raised when this module would write something else for the same input."""

_GIVEN = 25  # words of the paper's text that are given, after its headings
_LEFT = 60  # words that must follow in the paper
_WRITTEN = 120  # tokens, at most


@dataclass(frozen=True, slots=True)
class Beginning:
    """``prompt`` is what both models go on from, ``original`` how the paper does."""

    paper: str
    prompt: str
    original: str


def write_samples(config: EvaluateConfig, subjects: Subjects, papers: Sequence[Paper], manifest: Manifest, on_event: OnEvent) -> list[dict[str, Any]]:
    """As ``samples`` of ``evaluation.json`` has them (``docs/formats.md``); none without a base model and an adapter."""
    writing = [subject for subject in subjects.all if subject.kind in ("base", "tuned")]
    if not config.samples or not writing:
        return []
    beginnings = list(choose(papers, config.samples, config.seed))
    sampling = Sampling(seed=config.seed)
    keys = {(b.prompt, s.kind): _key(b, s, sampling, config.context) for b in beginnings for s in writing}
    missing = [s for s in writing if any(keys[b.prompt, s.kind] not in manifest.items for b in beginnings)]
    done = sum(key in manifest.items for key in keys.values())
    on_event(Started("Writing samples", len(keys), "texts", done))
    with closing(subjects.opened(missing)) as opened:
        for subject, model in opened:
            assert isinstance(model, TorchModel)
            for beginning in beginnings:
                key = keys[beginning.prompt, subject.kind]
                if key not in manifest.items:
                    manifest.record(key, model=subject.name, paper=beginning.paper, sample=continuation(model, beginning.prompt, sampling, _WRITTEN))
                    done += 1
                    on_event(Unit(done, f"{subject.name}: {beginning.paper}"))
    return [
        {**asdict(b), **{s.kind: {"text": manifest.items[keys[b.prompt, s.kind]]["sample"], "copies": []} for s in writing}} for b in beginnings
    ]


def choose(papers: Sequence[Paper], count: int, seed: int) -> Iterator[Beginning]:
    """At most ``count`` beginnings, spread over the papers that have passages long enough; of one paper several only where papers are few."""
    able = [(paper, passages) for paper in papers if (passages := [p for p in paper.passages if len(p.text[p.known :].split()) >= _GIVEN + _LEFT])]
    for paper, passages in able:
        random.Random(f"{seed} {paper.name}").shuffle(passages)
    rounds = [[(paper, passages[k]) for paper, passages in able if k < len(passages)] for k in range(count)]
    left = count
    for of_each in rounds:
        some = min(left, len(of_each))
        left -= some
        yield from (_beginning(paper.name, passage) for paper, passage in (of_each[k * len(of_each) // some] for k in range(some)))


def continuation(model: TorchModel, prompt: str, sampling: Sampling, most: int) -> str:
    """What the model writes after ``prompt``: at most ``most`` tokens, up to its end token."""
    given = model.encode(prompt)[-(model.window - most - 1) :]
    draws = np.random.Generator(np.random.PCG64(sampling.seed))
    written: list[int] = []
    with closing(model.logits_after([model.bos, *given])) as logits:
        values = next(logits)
        while len(written) < most:
            token = draw(values, written[-sampling.repeat_last_n :], sampling, draws.random())
            if token == model.eos:
                break
            written.append(token)
            values = logits.send(token)
    return model.decode([*given, *written]).removeprefix(model.decode(given))


def draw(logits: np.ndarray, recent: Sequence[int], sampling: Sampling, at: float) -> int:
    """The token at quantile ``at`` of what ``sampling`` leaves of the distribution, likeliest first; steps and their order are llama.cpp's."""
    values = logits.astype(np.float64)
    repeated = np.unique(np.array(recent, np.int64))
    values[repeated] = np.where(values[repeated] > 0, values[repeated] / sampling.repeat_penalty, values[repeated] * sampling.repeat_penalty)
    if sampling.temperature <= 0:
        return int(values.argmax())
    order = np.argsort(-values, kind="stable")[: sampling.top_k]
    shares = np.exp(values[order] - values[order[0]])
    kept = int(np.searchsorted(np.cumsum(shares / shares.sum()), sampling.top_p)) + 1
    shares = np.exp((values[order[:kept]] - values[order[0]]) / sampling.temperature)
    return int(order[min(int(np.searchsorted(np.cumsum(shares / shares.sum()), at)), len(shares) - 1)])


def _beginning(paper: str, passage: Passage) -> Beginning:
    words = passage.text[passage.known :].split(" ")
    given = passage.text[: passage.known] + " ".join(words[:_GIVEN])
    return Beginning(paper, passage.prompt + given, passage.text[len(given) :][: 8 * _WRITTEN].rsplit(" ", 1)[0].strip())


def _key(beginning: Beginning, subject: Subject, sampling: Sampling, context: int) -> str:
    settings = {"model": subject.fingerprint, "sampling": asdict(sampling), "context": context, "written": _WRITTEN}
    return key_of(beginning.prompt, settings, CODE_VERSION)
