"""Samples: base and tuned model go on from the same beginnings, the same each time, and copies in them are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertune.base import open_base
from papertune.config import EvaluateConfig, PrepareConfig
from papertune.dataset import stage as dataset
from papertune.evaluate.passages import Paper, Passage
from papertune.evaluate.samples import choose, draw
from papertune.evaluate.stage import run
from papertune.events import Event, Unit
from papertune.records import read_examples
from papertune.sampling import Sampling
from tests.adapters import random_adapter
from tests.papers import write_papers

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> EvaluateConfig:
    """A dataset of invented papers, an adapter of tiny, and its evaluation with two samples."""
    folder = tmp_path_factory.mktemp("samples")
    write_papers(folder / "texts", count=3, seed=2)
    (folder / "general.txt").write_text("Some words of a general kind.\n")
    dataset.run(PrepareConfig(input_dir=folder / "texts", output_dir=folder / "dataset", val_ratio=0.4, max_tokens=256))
    random_adapter(open_base("tiny"), folder / "final", size=0.5)
    config = EvaluateConfig(
        lora_path=folder / "final", train_file=folder / "dataset" / "train.jsonl", val_file=folder / "dataset" / "val.jsonl",
        general_file=folder / "general.txt", output_dir=folder / "evaluation", context=256, device="cpu", threads=1, samples=2,
    )  # fmt: skip
    run(config)
    return config


def results(config: EvaluateConfig) -> dict[str, object]:
    found: dict[str, object] = json.loads((config.output_dir / "evaluation.json").read_text())
    return found


def test_both_models_go_on_from_beginnings_of_held_out_papers(made: EvaluateConfig) -> None:
    samples = results(made)["samples"]
    assert isinstance(samples, list)
    assert len(samples) == 2
    held_out = {example.paper for example in read_examples(made.val_file)}
    for sample in samples:
        assert sample["paper"] in held_out
        assert sample["base"]["text"].strip()
        assert sample["tuned"]["text"].strip()
        assert sample["base"]["text"] != sample["tuned"]["text"]
        assert sample["tuned"]["copies"] == []
        paper = (made.output_dir.parent / "texts" / f"{sample['paper']}.txt").read_text()
        assert sample["original"][:40] in paper
        assert sample["prompt"][-40:] in paper
    assert samples[0]["prompt"] != samples[1]["prompt"]


def test_a_second_run_writes_nothing_and_another_folder_gets_the_same_texts(made: EvaluateConfig, tmp_path: Path) -> None:
    before = (made.output_dir / "evaluation.json").read_bytes()
    said: list[Event] = []
    assert run(made, on_event=said.append).fresh
    assert not [event for event in said if isinstance(event, Unit)]
    assert (made.output_dir / "evaluation.json").read_bytes() == before
    run(replace(made, output_dir=tmp_path))
    assert (tmp_path / "evaluation.json").read_bytes() == before


def test_beginnings_are_spread_over_the_papers_and_few_papers_give_several() -> None:
    long, short = " ".join(f"word{k}" for k in range(200)), "too short"
    papers = [Paper(str(k), (Passage(f"# {k}\n\n", long), Passage("", short))) for k in range(10)]
    assert [beginning.paper for beginning in choose(papers, 5, seed=0)] == ["0", "2", "4", "6", "8"]
    assert [beginning.paper for beginning in choose(papers[:2], 5, seed=0)] == ["0", "1"]
    several = [Paper("a", tuple(Passage(f"## {k}\n\n", long) for k in range(3)))]
    prompts = [beginning.prompt for beginning in choose(several, 2, seed=0)]
    assert len(set(prompts)) == 2
    assert prompts[0].startswith("## ")
    assert list(choose([Paper("b", (Passage("", short),))], 3, seed=0)) == []


def test_what_an_example_repeats_of_the_one_before_is_given_too() -> None:
    text = "known already " + " ".join(f"word{k}" for k in range(200))
    (beginning,) = choose([Paper("a", (Passage("# T\n\n", text, known=14),))], 1, seed=0)
    assert beginning.prompt.startswith("# T\n\nknown already word0 ")
    assert beginning.original.startswith("word25 ")


LOGITS = st.lists(st.floats(-20, 20), min_size=50, max_size=50).map(lambda values: np.array(values, np.float32))


@given(LOGITS, st.floats(0, 1, exclude_max=True))
def test_a_draw_is_among_the_likeliest(logits: np.ndarray, at: float) -> None:
    token = draw(logits, [], Sampling(top_k=5, repeat_penalty=1.0), at)
    assert logits[token] >= np.sort(logits)[-5]


@given(LOGITS)
def test_without_temperature_the_likeliest_is_taken_and_repetition_costs(logits: np.ndarray) -> None:
    greedy = Sampling(temperature=0.0, repeat_penalty=1.0)
    assert draw(logits, [], greedy, 0.9) == int(logits.astype(np.float64).argmax())
    best = np.array([3.0, 2.9, -1.0], np.float32)
    assert draw(best, [0], Sampling(temperature=0.0, repeat_penalty=1.5), 0.0) == 1


def test_draws_have_the_shares_of_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2]))
    sampling = Sampling(temperature=1.0, top_p=1.0, repeat_penalty=1.0)
    drawn = [draw(logits, [], sampling, (k + 0.5) / 1000) for k in range(1000)]
    assert [drawn.count(token) for token in range(3)] == [500, 300, 200]
    assert {draw(logits, [], Sampling(temperature=1.0, top_p=0.7, repeat_penalty=1.0), k / 100) for k in range(100)} == {0, 1}
