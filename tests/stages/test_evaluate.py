"""Evaluation: bits per byte by definition, the same digits every time, resumed unit by unit; a GGUF agrees with the model it was made of."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pypdfium2 as pdfium
import pytest

from papertune.base import open_base
from papertune.config import CheckConfig, EvaluateConfig, ExportConfig, PrepareConfig
from papertune.dataset import stage as dataset
from papertune.errors import BadAdapter, BadDataset, BadGguf, BadValue
from papertune.evaluate import check
from papertune.evaluate.models import GgufModel, TorchModel
from papertune.evaluate.passages import Paper, Passage, read_papers
from papertune.evaluate.perplexity import Measured, bits_per_byte, change, tokenize, windows
from papertune.evaluate.stage import GENERAL, HELD_OUT, run
from papertune.evaluate.writing import MOST, choose, sections_of, write
from papertune.events import Event, Notice, Unit
from papertune.export import stage as export
from papertune.records import Example, read_examples
from papertune.sampling import Sampling
from tests.adapters import random_adapter
from tests.papers import write_papers

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of invented papers, an adapter of tiny, and the GGUF made of both without loss."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_papers(folder / "texts", count=5, seed=1)
    (folder / "general.txt").write_text("A first document of some words.\n\x1e\nAnd a second one of a few more words.\n")
    dataset.run(PrepareConfig(input_dir=folder / "texts", output_dir=folder / "dataset", val_ratio=0.4, max_tokens=256))
    random_adapter(open_base("tiny"), folder / "final")
    export.run(ExportConfig(lora_path=folder / "final", gguf_path=folder / "tiny.gguf", quant="F16"))
    return folder


@pytest.fixture
def config(made: Path, tmp_path: Path) -> Callable[..., EvaluateConfig]:
    def make(**changes: object) -> EvaluateConfig:
        return EvaluateConfig(
            **{
                "lora_path": made / "final",
                "train_file": made / "dataset" / "train.jsonl",
                "val_file": made / "dataset" / "val.jsonl",
                "general_file": made / "general.txt",
                "output_dir": tmp_path / "evaluation",
                "context": 256,
                "device": "cpu",
                "threads": 1,
                "sections": 0,
                **changes,
            }
        )

    return make


def test_base_adapter_and_gguf_are_measured_and_compared(made: Path, config: Callable[..., EvaluateConfig]) -> None:
    report = run(config(gguf=(made / "tiny.gguf",), general_file=None))
    results = json.loads((config().output_dir / "evaluation.json").read_text())
    base, tuned, gguf = results["models"]
    assert (base["kind"], tuned["kind"], gguf["kind"]) == ("base", "tuned", "gguf")
    papers = {example.paper for example in read_examples(made / "dataset" / "val.jsonl")}
    assert [p["name"] for p in base[HELD_OUT]["papers"]] == sorted(papers)
    assert base[HELD_OUT]["low"] < base[HELD_OUT]["value"] < base[HELD_OUT]["high"]
    assert abs(tuned[HELD_OUT]["value"] - base[HELD_OUT]["value"]) > 1e-3
    assert gguf[HELD_OUT]["value"] == pytest.approx(tuned[HELD_OUT]["value"], rel=2e-3)  # F16 weights and keys against float32
    assert [(c["from"], c["to"]) for c in results["changes"]] == [(base["name"], tuned["name"]), (tuned["name"], gguf["name"])]
    assert results["changes"][0][HELD_OUT]["value"] == tuned[HELD_OUT]["value"] - base[HELD_OUT]["value"]
    assert len(base[GENERAL]["papers"]) == 11
    assert {entry["name"] for entry in results["copies"]["papers"]} == papers
    assert not any(entry["copies"] for entry in results["copies"]["papers"])
    assert "| paper |" in (config().output_dir / "evaluation.md").read_text()
    assert report.states["ok"] == 3 * (len(papers) + 11)


@pytest.mark.parametrize(("size", "told"), [(0.0, False), (0.3, True)])
def test_a_model_that_forgot_says_how_to_forget_less(config: Callable[..., EvaluateConfig], tmp_path: Path, size: float, told: bool) -> None:
    random_adapter(open_base("tiny"), tmp_path / "final", size=size)
    events: list[Event] = []
    run(config(lora_path=tmp_path / "final"), on_event=events.append)
    (pair,) = json.loads((config().output_dir / "evaluation.json").read_text())["changes"]
    assert (pair[GENERAL]["percent"] > 1) == told
    assert any("--lora-strength" in event.text for event in events if isinstance(event, Notice)) == told


def test_every_byte_counts_once_and_the_figure_is_its_definition(made: Path, config: Callable[..., EvaluateConfig]) -> None:
    """Against a plain loop over the examples with transformers, and the bytes against the paper itself."""
    import torch
    from transformers import AutoModelForCausalLM

    run(config())
    results = json.loads((config().output_dir / "evaluation.json").read_text())
    entry = results["models"][0][HELD_OUT]["papers"][0]
    base = open_base("tiny")
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    reading = TorchModel(base, None, window=256, device="cpu", threads=1)
    paper = next(p for p in read_papers(made / "dataset" / "val.jsonl") if p.name == entry["name"])
    assert any(passage.known for passage in paper.passages)
    bits = 0.0
    for passage in paper.passages:
        ids, start, _ = tokenize(reading, passage)
        tokens = torch.tensor([[reading.bos, *ids]])
        with torch.no_grad():
            logs = torch.log_softmax(model(tokens).logits[0].double(), dim=1)
        bits -= sum(float(logs[i, ids[i]]) for i in range(start, len(ids))) / math.log(2)
    assert entry["bits"] == pytest.approx(bits, rel=1e-6)
    text = (made / "texts" / f"{entry['name']}.txt").read_text()
    running = sum(len(line.encode()) for line in text.splitlines() if line and not line.startswith("#"))
    assert entry["bytes"] == pytest.approx(running, rel=0.1)  # headings inside an example count, spaces between examples do not


def test_the_same_run_gives_the_same_digits(config: Callable[..., EvaluateConfig], made: Path, tmp_path: Path) -> None:
    run(config(gguf=(made / "tiny.gguf",), sections=1))
    run(config(gguf=(made / "tiny.gguf",), sections=1, output_dir=tmp_path / "again"))
    assert (tmp_path / "again" / "evaluation.json").read_bytes() == (config().output_dir / "evaluation.json").read_bytes()


def test_a_stopped_run_goes_on_where_it_was_and_a_finished_one_measures_nothing(config: Callable[..., EvaluateConfig]) -> None:
    def stop_after_five(event: Event) -> None:
        if isinstance(event, Unit) and event.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(), on_event=stop_after_five)
    events: list[Event] = []
    report = run(config(), on_event=events.append)
    assert report.states["fresh"] == 5
    assert min(event.done for event in events if isinstance(event, Unit)) == 6
    again = run(config())
    assert again.fresh
    assert not again.states["ok"]
    assert run(config(context=128)).states["fresh"] == 0


def test_every_model_writes_the_same_sections_anew(config: Callable[..., EvaluateConfig], made: Path) -> None:
    """A model of random weights does not end; the adapter's size is small, so float32 and F16 may still part ways in a draw."""
    report = run(config(gguf=(made / "tiny.gguf",), sections=2, context=128))
    writing = json.loads((config().output_dir / "evaluation.json").read_text())["writing"]
    assert len(writing["sections"]) == 2
    assert [len(model["texts"]) for model in writing["models"]] == [2, 2, 2]
    for model in writing["models"]:
        assert sum(model["ends"].values()) == 2
        assert all(text["text"] for text in model["texts"])
        assert 0 <= model["rep_4"] <= model["rep_2"] < 1
    texts = {(text["text"]) for model in writing["models"][:2] for text in model["texts"]}
    assert len(texts) == 4  # another model and another section, another text
    assert "| the authors |" in (config().output_dir / "evaluation.md").read_text()
    assert any(name.endswith(", writing") for name, _ in report.summary)
    events: list[Event] = []
    run(config(gguf=(made / "tiny.gguf",), sections=2, context=128), on_event=events.append)
    assert not any(isinstance(event, Unit) for event in events)


def test_a_model_that_ends_or_begins_another_section_is_told_apart_from_one_that_is_stopped() -> None:
    class Scripted:
        window = 1000

        def __init__(self, pieces: list[str], ended: bool) -> None:
            self.pieces, self.ended, self.most = pieces, ended, 0

        def write(self, _prompt: str, _sampling: Sampling, most: int) -> Generator[str, None, bool]:
            self.most = most
            yield from self.pieces
            return self.ended

    long = Scripted(["Some ", "words.\n\n"], False)
    assert write(long, "# T\n\n", Sampling()) == {"text": "Some words.", "end": "cut"}  # type: ignore[arg-type]
    assert long.most == MOST
    assert write(Scripted(["Some."], True), "# T\n\n", Sampling()) == {"text": "Some.", "end": "end"}  # type: ignore[arg-type]
    next_one = Scripted(["Some.\n", "\n#", "# Results", "\n\nMore."], True)
    assert write(next_one, "# T\n\n", Sampling()) == {"text": "Some.", "end": "heading"}  # type: ignore[arg-type]


def test_only_whole_sections_are_written_anew() -> None:
    body = " ".join(["word"] * 40) + "."
    whole = f"# T\n\n## Methods\n\n### Soil\n\n{body}\n\n### Water\n\n{body}\n\n## Results\n\n{body}"
    paper = Paper("p", (Passage("", whole),))
    prompts = ["# T\n\n## Methods\n\n### Soil\n\n", "# T\n\n## Methods\n\n### Water\n\n", "# T\n\n## Results\n\n"]
    assert [section.prompt for section in sections_of(paper)] == prompts
    assert all(section.text == body for section in sections_of(paper))
    assert sections_of(Paper("p", (Passage("# T\n\n## A\n\n…\n\n", body),))) == []  # it began before
    assert sections_of(Paper("p", (Passage("# T\n\n## A\n\n", body, ends=False),))) == []  # it goes on after
    assert sections_of(Paper("p", (Passage("# T\n\n## Contents\n\n", body),))) == []
    so_far = Passage(f"# T\n\n## A\n\n{body}\n\n…\n\n## B\n\n", body)
    assert [section.prompt for section in sections_of(Paper("p", (so_far,)))] == ["# T\n\n## B\n\n"]
    assert [s.paper for s in choose([paper, Paper("q", paper.passages)], 5, seed=0)] == ["p", "q", "p", "q", "p"]
    assert choose([Paper("short", (Passage("", "# T\n\n## A\n\nToo short."),))], 5, seed=0) == []


@pytest.mark.parametrize("sections", [0, 2])
def test_a_passage_without_a_heading_is_measured_and_not_written(config: Callable[..., EvaluateConfig], tmp_path: Path, sections: int) -> None:
    val = tmp_path / "val.jsonl"
    val.write_text(Example("x", "x", "Some words that stand under no heading.").to_json() + "\n")
    events: list[Event] = []
    run(config(val_file=val, sections=sections), on_event=events.append)
    assert json.loads((config().output_dir / "evaluation.json").read_text())["writing"] is None
    assert any(isinstance(event, Notice) and "no model was made to write" in event.text for event in events) == bool(sections)


def test_a_text_file_can_be_measured_too(config: Callable[..., EvaluateConfig], made: Path) -> None:
    report = run(config(only_gguf=True, gguf=(made / "tiny.gguf",), val_file=made / "texts" / "paper-00.txt"))
    assert report.states["ok"] == 1 + 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"lora_path": Path("nowhere")}, BadAdapter),
        ({"val_file": Path("nowhere.jsonl")}, BadDataset),
        ({"gguf": (Path("nowhere.gguf"),)}, BadGguf),
        ({"only_gguf": True}, BadGguf),
    ],
)
def test_what_is_missing_is_named(config: Callable[..., EvaluateConfig], changes: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"nowhere|--gguf"):
        run(config(**changes))


def test_an_adapter_of_another_base_is_not_measured(config: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    base = open_base("tiny")
    other = Path(shutil.copytree(base.folder, tmp_path / "other"))
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "rope_theta": 1234.0}))
    random_adapter(base, tmp_path / "final", provenance={"run": {"model": base.fingerprint()}})
    with pytest.raises(BadAdapter, match=r"final was trained on another model than .*other is now\."):
        run(config(lora_path=tmp_path / "final", model=str(other)))
    assert run(config(lora_path=tmp_path / "final")).states["ok"]


@pytest.mark.parametrize(("total", "start", "size"), [(5, 0, 10), (100, 7, 16), (1000, 990, 33), (64, 0, 65), (300, 250, 64)])
def test_windows_measure_each_token_once_with_enough_before_it(total: int, start: int, size: int) -> None:
    measured: list[int] = []
    for first, last, begin in windows(total, start, size):
        assert first <= begin < last <= min(total, first + size - 1)
        assert begin - first >= min(begin, (size - 1) // 2)
        measured += range(begin, last)
    assert measured == list(range(start, total))


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        sizes = random.integers(5_000, 20_000, 40)
        papers = [Measured(float(size * rate), int(size), 1) for size, rate in zip(sizes, random.normal(2.0, 0.3, 40), strict=True)]
        interval = bits_per_byte(papers, seed=1)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 2.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_change_is_paired_by_paper() -> None:
    """Papers differ by much more than the models do, and still the change is sure."""
    before = [Measured(1000.0 * k, 1000, 1) for k in range(1, 11)]
    after = [Measured(990.0 * k, 1000, 1) for k in range(1, 11)]
    interval = change(before, after, seed=0)
    assert interval.high is not None
    assert interval.high < 0
    assert interval.value == pytest.approx(-0.055)
    assert bits_per_byte(before[:1], seed=0).low is None


def test_tokens_of_prompt_and_overlap_are_given_not_measured() -> None:
    model = TorchModel(open_base("tiny"), None, window=256, device="cpu", threads=1)
    ids, start, size = tokenize(model, Passage("# A title\n\n", "Known already. New text é here.", len("Known already. ")))
    assert model.decode(ids[:start]) == "# A title\n\nKnown already."
    assert size == len(" New text é here.".encode())


@pytest.fixture
def gguf(made: Path) -> Iterator[GgufModel]:
    model = GgufModel(made / "tiny.gguf", window=700, threads=1)
    with model.gguf:
        yield model


def test_llama_cpp_counts_tokens_and_losses_as_the_model_does(gguf: GgufModel, made: Path) -> None:
    from papertune.adapter import open_adapter

    text = (made / "texts" / "paper-03.txt").read_text() * 2
    tuned = TorchModel(open_base("tiny"), open_adapter(made / "final"), window=700, device="cpu", threads=1)
    ids = gguf.encode(text)[:650]
    assert ids == tuned.encode(text)[:650]
    assert text.startswith(gguf.decode(ids[:-3]))
    losses = gguf.losses([gguf.bos, *ids], 1)
    assert losses == pytest.approx(tuned.losses([tuned.bos, *ids], 1), abs=0.05)
    assert losses.mean() == pytest.approx(tuned.losses([tuned.bos, *ids], 1).mean(), rel=2e-3)
    assert (gguf.losses([gguf.bos, *ids], 600) == losses[599:]).all()


def test_a_gguf_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"no model at all")
    with pytest.raises(BadGguf, match=r"no\.gguf"):
        GgufModel(tmp_path / "no.gguf", window=64, threads=1)


def test_check_shows_each_copy_with_paper_and_line(made: Path, tmp_path: Path) -> None:
    example = max((e for e in read_examples(made / "dataset" / "train.jsonl")), key=lambda e: len(e.text))
    draft = tmp_path / "draft.md"
    draft.write_text(f"# Mine\n\nMy own words.\n\n{example.text}\n\nMine again.\n")
    clean = tmp_path / "clean.md"
    clean.write_text("# Mine\n\nNothing here is from anyone else, as far as I can tell by reading it over again.\n")
    report = check.run(CheckConfig(file=(draft, clean), against=made / "dataset" / "train.jsonl", text_dir=made / "texts"))
    assert report.states == {"copies": 1, "no copies": 1}
    shown = dict(report.summary)
    place = next(name for name in shown if name.startswith("  line 5, "))
    assert shown[place].startswith(f"{example.paper}.txt: “")
    assert shown[str(clean)].startswith("0 copies")


def test_check_without_a_file_says_how() -> None:
    with pytest.raises(BadValue, match="papertune check FILE"):
        check.run(CheckConfig())


@pytest.mark.parametrize("kind", ["pdf", "epub", "doc", "utf-16 without a mark"])
def test_what_is_no_plain_text_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"draft.{kind.split()[0]}"
    if kind == "pdf":
        pdf = pdfium.PdfDocument.new()
        pdf.new_page(100, 100)
        pdf.save(path)
    elif kind == "epub":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("mimetype", "application/epub+zip")
    else:
        path.write_bytes(b"\xd0\xcf\x11\xe0 old Word" if kind == "doc" else "Words.".encode("utf-16-le"))
    with pytest.raises(BadValue, match=rf"{path.name} is no plain text\. Extract its text first"):
        check.run(CheckConfig(file=(path,)))
    with pytest.raises(BadDataset, match=rf"{path.name} is no plain text\. Extract its text first"):
        read_papers(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_says_how_a_text_is_read(made: Path, tmp_path: Path, encoding: str) -> None:
    example = max((e for e in read_examples(made / "dataset" / "train.jsonl")), key=lambda e: len(e.text))
    draft = tmp_path / "draft.txt"
    draft.write_bytes(f"Mine.\r\n\r\n{example.text}".encode(encoding))
    report = check.run(CheckConfig(file=(draft,), against=made / "dataset" / "train.jsonl", text_dir=made / "texts"))
    assert report.states == {"copies": 1}
    assert any(name.startswith("  line 3, ") for name, _ in report.summary)
    assert read_papers(draft)[0].passages[0].text.startswith("Mine.\n\n" + example.text[:20])


def test_examples_of_a_users_own_are_measured_too(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "Some words of mine."}\n' + Example("x", "", "Others.").to_json() + "\n")
    assert [paper.passages[0].text for paper in read_papers(path)] == ["Some words of mine.", "Others."]
