"""The report: what was read stands on the page, what is missing is named with its command, nothing of a paper becomes markup."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from papertune.config import ReportConfig
from papertune.errors import CannotWrite
from papertune.events import Event, Notice, ignore
from papertune.report.facts import Evaluation, Facts, Training
from papertune.report.markup import joined
from papertune.report.page import page
from papertune.report.reading import read_facts
from papertune.report.sections.results import verdict
from papertune.report.sections.samples import marked, order
from papertune.report.stage import run
from tests.run_files import HOSTILE, write_run
from tests.unit.test_report_markup import Parsed, shown

SECTIONS = ["results", "samples", "copies", "corpus", "dataset", "training", "export", "provenance", "settings"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ReportConfig:
    """The files of a whole run, and its report."""
    config = write_run(tmp_path_factory.mktemp("run"), papers=45)
    run(config)
    return config


@pytest.fixture
def copy(whole: ReportConfig, tmp_path: Path) -> ReportConfig:
    """The same, to be harmed."""
    source = whole.output.parent
    folder = Path(shutil.copytree(source, tmp_path / "run"))
    paths = {name: folder / getattr(whole, name).relative_to(source) for name in ("output", "text_dir", "dataset_dir", "lora_dir", "evaluation_dir")}
    return replace(whole, gguf=tuple(folder / path.relative_to(source) for path in whole.gguf), **paths)


def shown_page(config: ReportConfig) -> Parsed:
    return Parsed(config.output.read_text(encoding="utf-8"))


def test_the_whole_run_is_on_the_page(whole: ReportConfig) -> None:
    found = shown_page(whole)
    assert [attrs["id"] for tag, attrs in found.elements if tag == "section"] == SECTIONS
    for text in (
        "Yes. On papers it has never seen, the tuned model needs",
        "41 of 45 files gave text",
        "scans without a text layer",
        "keeps 9 of 32 layers, recomputes the MLP of 7, recomputes 16, has 16 dequantised in host memory",
        "7.16 GiB of 8.00 GiB",
        "2.446 bits a byte where the tuned model needs 2.411 (0.035 more)",
        "same likeliest next token in 93.8",
        "Every link that can be compared holds (11)",
        "paper-000.pdf, page 4",
        "Samples by the tuned model",
        "On water",
        "2 more samples",
        "The papers' authors",
        "5 of 6",
        "chunk-size",
    ):
        assert text in found.text
    assert "Run: " not in found.text
    assert sum(tag == "svg" and attrs.get("role") == "img" for tag, attrs in found.elements) == 7
    assert all(attrs.get("aria-label") for tag, attrs in found.elements if tag == "svg" and attrs.get("role") == "img")


def test_made_again_from_the_same_files_it_is_not_written_anew(copy: ReportConfig) -> None:
    before = copy.output.read_bytes()
    copy.output.unlink()
    assert not run(copy).fresh
    first = copy.output.read_bytes()
    written = copy.output.stat().st_mtime_ns
    os.utime(copy.text_dir / ".resume.json", (4e9, 4e9))  # each run of extraction writes it anew
    assert run(copy).fresh
    assert copy.output.stat().st_mtime_ns == written
    assert len(first) - len(before) == pytest.approx(0, abs=20_000)  # paths of another folder
    assert list(copy.output.parent.glob("*.part")) == []


def test_nothing_at_all_is_a_page_that_says_what_to_run(tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("text_dir", "dataset_dir", "lora_dir", "evaluation_dir"), tmp_path / "no")
    config = ReportConfig(output=tmp_path / "new" / "report.html", gguf=(tmp_path / "no.gguf",), **nowhere)
    report = run(config)
    found = shown_page(config)
    for command in ("extract", "prepare", "train", "export", "evaluate"):
        assert f"Run: papertune {command}" in found.text
    assert len(report.summary) == 5
    assert "There is no trained model yet." in found.text


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda c: shutil.rmtree(c.evaluation_dir), "evaluation.json is not there yet. Run: papertune evaluate --gguf "),
        (lambda c: (c.evaluation_dir / "evaluation.json").write_text("{"), "evaluation.json cannot be read"),
        (lambda c: (c.evaluation_dir / "evaluation.json").write_text("{}"), "evaluation.json cannot be read: it lacks 'models'"),
        (lambda c: (c.evaluation_dir / "evaluation.json").write_text("[]"), "evaluation.json cannot be read"),
        (lambda c: (c.dataset_dir / "dataset.json").write_text("{}"), "dataset.json cannot be read"),
        (lambda c: (c.text_dir / ".resume.json").write_bytes(b"\x00"), ".resume.json cannot be read: it is no manifest"),
        (lambda c: c.gguf[0].write_bytes(c.gguf[0].read_bytes()[:500]), "model.gguf cannot be read"),
        (lambda c: (c.lora_dir / "events.jsonl").write_text('{"event": "step"}\n'), "events.jsonl cannot be read: it lacks 'step'"),
        (lambda c: shutil.rmtree(c.lora_dir / "final"), "Training has not ended"),
        (lambda c: c.gguf[0].with_name("model.gguf.json").unlink(), "No comparison with the tuned model is recorded."),
    ],
)
def test_what_is_missing_or_damaged_is_named_and_the_rest_is_told(copy: ReportConfig, harm: Callable[[ReportConfig], object], says: str) -> None:
    harm(copy)
    run(copy)
    found = shown_page(copy)
    assert says in found.text
    assert sum(tag == "section" for tag, _ in found.elements) == len(SECTIONS)


def test_a_damaged_file_is_warned_of(copy: ReportConfig) -> None:
    said: list[Event] = []
    (copy.evaluation_dir / "evaluation.json").write_text("{")
    run(copy, on_event=said.append)
    assert [event.level for event in said if isinstance(event, Notice)] == ["warning"]


def test_a_torn_last_line_of_the_log_is_no_damage(copy: ReportConfig) -> None:
    with (copy.lora_dir / "events.jsonl").open("a") as log:
        log.write('{"event": "step", "st')
    facts = facts_of(copy)
    assert isinstance(facts.training, Training)
    assert len(facts.training.steps) == 60


def test_an_adapter_that_applies_less_than_was_learnt_says_so(copy: ReportConfig) -> None:
    written = copy.lora_dir / "final" / "papertune.json"
    written.write_text(json.dumps({**json.loads(written.read_text()), "strength": 0.6, "bits_per_byte": {"before": 0.81, "after": 0.7}}))
    run(copy)
    assert "The adapter applies 60% of what was learnt: 0.700." in shown_page(copy).text


def test_a_link_that_no_longer_holds_is_told(copy: ReportConfig) -> None:
    with (copy.dataset_dir / "train.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    run(copy)
    text = shown_page(copy).text
    assert "1 link of the chain does not hold" in text
    assert "train.jsonl is as it was written: no longer" in text


def test_a_record_of_another_gguf_is_not_believed(copy: ReportConfig) -> None:
    record = copy.gguf[0].with_name("model.gguf.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "head": "0" * 64, "sha256": "f" * 64}))
    run(copy)
    text = shown_page(copy).text
    assert "No comparison with the tuned model is recorded." in text
    assert "f" * 64 not in text
    assert "Every link that can be compared holds (11)" in text  # the file itself was hashed


def test_a_folder_in_the_pages_place_is_one_clear_error(copy: ReportConfig) -> None:
    with pytest.raises(CannotWrite, match="is a folder"):
        run(replace(copy, output=copy.text_dir))


def test_text_from_papers_is_text_wherever_it_stands(whole: ReportConfig, tmp_path: Path) -> None:
    """The page of a run whose every name, title and text is hostile has the same elements as that of a harmless one (A and B may change places)."""
    config = write_run(tmp_path, papers=45, title=HOSTILE)
    run(config)
    harmless, hostile = shown_page(whole), shown_page(config)
    assert [tag for tag, _ in hostile.elements if tag in ("script", "img")] == []
    assert Counter(tag for tag, _ in hostile.elements) == Counter(tag for tag, _ in harmless.elements)
    assert hostile.text.count(shown(HOSTILE)) > 45


def test_the_page_lets_nothing_in(whole: ReportConfig) -> None:
    found = shown_page(whole)
    policy = next(attrs["content"] for tag, attrs in found.elements if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "img", "link", "iframe", "object", "embed", "form"}
    assert not {name for _, attrs in found.elements for name in attrs if name.startswith("on") or name in ("style", "src")}
    assert all(str(attrs["href"]).startswith("#") for tag, attrs in found.elements if "href" in attrs)


def facts_of(config: ReportConfig) -> Facts:
    return read_facts(config, ignore)


def test_a_verdict_says_no_more_than_the_interval(whole: ReportConfig) -> None:
    evaluation = facts_of(whole).evaluation
    assert isinstance(evaluation, Evaluation)
    change = evaluation.changes[0]
    kind = evaluation.kinds[0]

    def said(value: float, low: float | None, high: float | None) -> str:
        figure = replace(change.texts[kind], value=value, low=low, high=high, percent=10 * value)
        return verdict(replace(evaluation, changes=[replace(change, texts={**change.texts, kind: figure})]))

    assert said(-0.1, -0.2, -0.05).startswith("Yes.")
    assert said(-0.1, -0.2, 0.0).startswith("It cannot be told.")
    assert said(0.1, 0.05, 0.2).startswith("No: it got worse.")
    assert said(-0.1, None, None).endswith("no telling whether that is chance.")
    assert "more bits" in said(0.1, -0.1, 0.2)
    assert verdict(replace(evaluation, changes=[])).startswith("One model was measured")


def test_samples_are_in_an_order_that_stays_and_is_not_always_the_same(whole: ReportConfig) -> None:
    evaluation = facts_of(whole).evaluation
    assert isinstance(evaluation, Evaluation)
    sample = evaluation.samples[0]
    assert order(sample) == order(sample)
    assert {order(replace(sample, prompt=str(k))) for k in range(20)} == {("base", "tuned"), ("tuned", "base")}


def test_copies_are_marked_even_where_they_overlap_or_reach_beyond_the_text() -> None:
    parts = marked("0123456789", [(2, 5, 50, "a.pdf, page 1"), (4, 7, 50, "b.pdf"), (9, 99, 50, "c.pdf")])
    found = Parsed(joined(parts).html)
    assert found.text == "01234 [50 tokens: a.pdf, page 1]56 [50 tokens: b.pdf]789 [50 tokens: c.pdf]"
    assert sum(tag == "mark" for tag, _ in found.elements) == 3


def test_600_papers_make_a_page_of_less_than_five_megabytes(tmp_path: Path) -> None:
    config = write_run(tmp_path, papers=600, steps=2000)
    run(config)
    assert config.output.stat().st_size < 1_000_000


def test_a_list_is_cut_where_it_would_be_endless(whole: ReportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from papertune.report import parts

    monkeypatch.setattr(parts, "MOST_ROWS", 10)
    assert "35 more are in " in page(facts_of(whole))
