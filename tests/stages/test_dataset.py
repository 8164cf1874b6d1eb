"""The step as its users meet it: files in, two files out."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
from pathlib import Path

import pytest

from papertune import prompts
from papertune.base import open_base
from papertune.config import PrepareConfig
from papertune.dataset.read import read_paper
from papertune.dataset.stage import run
from papertune.errors import BadDataset, BadValue, FolderMissing, FolderUnreadable, NoInputFiles, TooFewPapers
from papertune.events import Notice, Report, Started, Unit
from papertune.manifest import read_manifest
from papertune.records import Example, read_examples
from papertune.tokenizer import open_tokenizer
from tests.papers import write_papers


def prepare(folder: Path, out: Path, **settings: object) -> Report:
    return run(PrepareConfig(input_dir=folder, output_dir=out, **settings))


def examples(out: Path, name: str = "train.jsonl") -> list[Example]:
    return list(read_examples(out / name))


def running_text(found: list[Example]) -> list[Example]:
    """All but outlines and general text."""
    return [e for e in found if e.span]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_papers(folder, count=40, seed=1)
    return folder


@pytest.fixture(scope="module")
def dataset(papers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dataset")
    prepare(papers, out)
    return out


def test_no_paper_stands_on_both_sides(dataset: Path) -> None:
    train, val = ({e.paper for e in examples(dataset, name)} for name in ("train.jsonl", "val.jsonl"))
    assert train
    assert val
    assert not train & val


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3])
def test_the_share_of_chunks_for_validation_is_as_asked(papers: Path, tmp_path: Path, ratio: float) -> None:
    prepare(papers, tmp_path, val_ratio=ratio)
    train, val = len(examples(tmp_path)), len(examples(tmp_path, "val.jsonl"))
    assert val / (train + val) == pytest.approx(ratio, abs=0.002 + 1 / (train + val))


@pytest.mark.parametrize(("size", "max_tokens"), [(2000, 512), (600, 512), (5000, 256), (8000, 2048)])
def test_every_example_fits_both_caps(papers: Path, tmp_path: Path, size: int, max_tokens: int) -> None:
    tokenizer = open_tokenizer(open_base("tiny").folder)
    prepare(papers, tmp_path, chunk_size=size, overlap=size // 10, max_tokens=max_tokens)
    for name in ("train.jsonl", "val.jsonl"):
        for example in examples(tmp_path, name):
            assert len(example.text) <= size
            assert len(tokenizer.encode(example.prompt)) + len(tokenizer.encode(example.text)) + 2 <= max_tokens


def test_the_text_is_the_files_own_at_its_span(papers: Path, dataset: Path) -> None:
    for example in running_text(examples(dataset)):
        start, end = example.span or (0, 0)
        assert (papers / f"{example.paper}.txt").read_text(encoding="utf-8")[start:end] == example.text


def test_chunks_go_on_where_the_one_before_stopped_with_whole_sentences_repeated(dataset: Path) -> None:
    repeated = []
    for before, after in zip(examples(dataset), examples(dataset)[1:], strict=False):
        if before.paper != after.paper or before.end:
            continue
        assert before.span
        assert after.span
        overlap = before.span[1] - after.span[0]
        assert -2 <= overlap <= 200
        repeated.append(overlap)
        assert before.text[-1] in ".?!"
        assert after.text[0].isupper()
    assert sum(overlap > 0 for overlap in repeated) > 0.9 * len(repeated)


def test_no_text_is_lost(papers: Path, dataset: Path) -> None:
    everything = [*examples(dataset), *examples(dataset, "val.jsonl")]
    for path in papers.glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        covered = [False] * len(text)
        for example in everything:
            if example.paper == path.stem and example.span:
                covered[example.span[0] : example.span[1]] = [True] * (example.span[1] - example.span[0])
        left = "".join(c for c, seen in zip(text, covered, strict=True) if not seen)
        assert all(line.startswith("#") for line in left.split("\n") if line.strip())


def test_the_prompt_names_title_and_headings_and_marks_a_gap(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    body = "The river was measured twice a day in every season of the year. " * 12
    (folder / "a.txt").write_text(f"# On rivers\n\n## Methods\n\n### Sampling\n\n{body}\n\n## Results\n\n{body}\n")
    (folder / "b.txt").write_text("# On lakes\n\nLakes are still, and nobody has measured them yet.\n")
    prepare(folder, tmp_path, chunk_size=500, overlap=50, mix=("continuation",))
    prompts = [e.prompt for e in examples(tmp_path) + examples(tmp_path, "val.jsonl") if e.paper == "a"]
    assert prompts[0] == "# On rivers\n\n## Methods\n\n### Sampling\n\n"
    assert prompts[1] == "# On rivers\n\n## Methods\n\n### Sampling\n\n…\n\n"
    assert "# On rivers\n\n## Results\n\n" in prompts


def test_outlines_are_learnt_when_asked_for(papers: Path, tmp_path: Path) -> None:
    prepare(papers, tmp_path, mix=("outline",))
    everything = examples(tmp_path) + examples(tmp_path, "val.jsonl")
    tables = [e for e in everything if e.id.endswith("#outline")]
    assert len(tables) == 40
    assert all(e.prompt.startswith("# On ") and e.prompt.endswith("\n\n## Contents\n\n") for e in tables)
    assert 0 < sum("\n\n## Abstract\n\n" in e.prompt for e in tables) < 40
    assert tables[0].text == "1. Introduction\n2. Methods\n3. Results\n4. Discussion\n5. Conclusions"
    assert tables[0].end
    assert {e.id for e in everything} >= {f"{path.stem}#outline" for path in papers.glob("*.txt")}


def test_end_is_said_only_where_a_section_ends(papers: Path, dataset: Path) -> None:
    for example in examples(dataset):
        text = (papers / f"{example.paper}.txt").read_text(encoding="utf-8")
        after = text[example.span[1] :].lstrip() if example.span else ""
        assert example.end == (not after or after.startswith("#"))


def test_no_example_ends_on_a_heading(dataset: Path) -> None:
    assert not [e.id for e in examples(dataset) if e.text.rpartition("\n")[2].startswith("#")]


def test_a_cap_on_samples_leaves_every_paper_its_share(papers: Path, dataset: Path, tmp_path: Path) -> None:
    prepare(papers, tmp_path, max_samples=100)
    whole, capped = examples(dataset), examples(tmp_path)
    assert len(capped) == 100
    assert {e.id for e in capped} <= {e.id for e in whole}
    share = len(capped) / len(whole)
    for paper in {e.paper for e in whole}:
        had, has = (sum(e.paper == paper for e in group) for group in (whole, capped))
        assert abs(has - had * share) <= 2
    assert examples(tmp_path, "val.jsonl") == examples(dataset, "val.jsonl")


@pytest.mark.parametrize("workers", [2, 3])
def test_the_bytes_do_not_depend_on_the_workers(papers: Path, dataset: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("papertune.dataset.preparing._SMALL", 0)
    monkeypatch.setattr("papertune.dataset.preparing._BATCH", 1 << 14)
    prepare(papers, tmp_path, workers=workers)
    for name in ("train.jsonl", "val.jsonl"):
        assert (tmp_path / name).read_bytes() == (dataset / name).read_bytes()


def test_long_form_keeps_sections_whole_and_tells_what_it_takes(papers: Path, dataset: Path, tmp_path: Path) -> None:
    said: list[object] = []
    run(PrepareConfig(input_dir=papers, output_dir=tmp_path / "short", max_tokens=2048), on_event=said.append)
    assert any(isinstance(e, Notice) and "--chunk-size 8192" in e.text for e in said)
    report = prepare(papers, tmp_path / "long", max_tokens=2048, chunk_size=8192)
    train, val = (tmp_path / "long" / name for name in ("train.jsonl", "val.jsonl"))
    assert report.next_command == f"papertune train --train-file {train} --val-file {val} --max-seq-len 2048"
    run(PrepareConfig(input_dir=papers, output_dir=tmp_path / "cut", chunk_size=4096), on_event=said.append)
    assert any(isinstance(e, Notice) and "--max-tokens 1024" in e.text for e in said)
    whole = [e.end and not e.prompt.endswith(prompts.GAP) for e in running_text(examples(tmp_path / "long"))]
    short = [e.end and not e.prompt.endswith(prompts.GAP) for e in running_text(examples(dataset))]
    assert sum(whole) == len(whole) > 0
    assert sum(short) < len(short)


def test_another_seed_is_another_split(papers: Path, dataset: Path, tmp_path: Path) -> None:
    prepare(papers, tmp_path, seed=1)
    assert {e.paper for e in examples(tmp_path, "val.jsonl")} != {e.paper for e in examples(dataset, "val.jsonl")}


def test_nothing_is_done_twice_and_a_change_is_seen(papers: Path, tmp_path: Path) -> None:
    assert not prepare(papers, tmp_path).fresh
    again = prepare(papers, tmp_path)
    assert again.fresh
    assert again.states["fresh"] == 40
    assert not prepare(papers, tmp_path, chunk_size=1500).fresh
    (tmp_path / "val.jsonl").write_bytes(b"")
    assert not prepare(papers, tmp_path, chunk_size=1500).fresh


def test_the_time_is_printed_last_and_called_an_estimate(papers: Path, tmp_path: Path) -> None:
    report = prepare(papers, tmp_path, gpu="RTX 3070")
    name, figure = report.closing[-1]
    assert name == "Estimated training time"
    assert "estimate" in figure
    assert "RTX 3070" in figure
    said = dict(report.closing)
    assert "optimiser steps" in said["Training"]
    assert "GB are free here" in said["Disk for the next steps"]


def test_twenty_steps_of_training_replace_the_estimate(papers: Path, dataset: Path, tmp_path: Path) -> None:
    final = tmp_path / "lora" / "final"
    final.mkdir(parents=True)
    (final / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    events = [json.dumps({"event": "step", "step": k, "tokens_per_second": 100.0 + k}) for k in range(1, 22)]
    tokens = list(read_manifest(dataset / "dataset.json")[1].values())[-1]["files"]["train.jsonl"]["tokens"]
    for count, extra, measured in ((19, '{"torn', False), (21, '{"event": "checkpoint", "step": 21}', True)):
        (final.parent / "events.jsonl").write_text("\n".join([*events[:count], extra]) + "\n")
        name, figure = prepare(papers, dataset, trained=final.parent).closing[-1]
        assert name == "Estimated training time"
        assert ("(measured: " in figure) == measured
    assert "measured: 111 tokens/s, median of 21 steps" in figure
    assert "some/model" in figure
    assert f"{round(tokens / 111 / 60)} min an epoch" in figure
    assert "not a measurement" in prepare(papers, dataset, trained=final.parent, gpu="RTX 3070").closing[-1][1]
    (final / "adapter_config.json").write_text('{"base_model_name_or_path": "tiny"}')
    assert "not a measurement" in prepare(papers, dataset, trained=final.parent).closing[-1][1]


def test_the_manifest_leads_back_to_the_papers(papers: Path, dataset: Path) -> None:
    _, items = read_manifest(dataset / "dataset.json")
    whole = list(items.values())[-1]
    assert set(whole["files"]) == {"train.jsonl", "val.jsonl"}
    assert {path.stem for path in papers.glob("*.txt")} < set(items)
    for figures in whole["files"].values():
        assert sum(figures["lengths"]) == figures["examples"]
        middles = sum(count * (16 * k + 7.5) for k, count in enumerate(figures["lengths"]))
        assert figures["tokens"] == pytest.approx(middles, abs=8 * figures["examples"])


def test_pages_and_source_come_from_the_sidecar(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    write_papers(folder, count=2, seed=3)
    path = folder / "paper-00.txt"
    blocks = [
        {"kind": "paragraph", "text": text, "places": [{"page": 2 + k, "box": None}], "level": 0}
        for k, text in enumerate(p for p in path.read_text().split("\n\n") if not p.startswith("#"))
    ]
    sidecar = {"version": 1, "source": "p.pdf", "sha256": "ab", "engine": "fast", "pages": 90, "blocks": blocks}
    path.with_name("paper-00.blocks.json").write_text(json.dumps(sidecar))
    prepare(folder, tmp_path)
    found = [e for e in examples(tmp_path) + examples(tmp_path, "val.jsonl") if e.paper == "paper-00"]
    assert {(e.source, e.sha256) for e in found} == {("p.pdf", "ab")}
    found = running_text(found)
    assert found[0].pages
    assert found[0].pages[0] == 2
    assert all(a.pages <= b.pages for a, b in itertools.pairwise(found))


def test_a_failed_run_leaves_what_is_known_of_the_earlier_one(papers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(papers, out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    (tmp_path / "one").mkdir()
    write_papers(tmp_path / "one", count=1, seed=1)
    with pytest.raises(TooFewPapers):
        prepare(tmp_path / "one", out)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert prepare(papers, out).fresh


def test_linked_folders_are_read_once_and_cards_of_datasets_are_no_papers(papers: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "papers").symlink_to(papers)
    (tmp_path / "text" / "loop").symlink_to(tmp_path / "text")
    for name in ("first", "second"):
        assert prepare(tmp_path / "text", tmp_path / "text" / name).states["ok"] == 40


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_heading_needs_no_blank_line_and_text_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    text = "\ufeff" * (encoding == "utf-16-be") + "# A Title\nSome words.\n## Methods\nOther words\nthat go on."
    (tmp_path / "own.txt").write_text(text, encoding=encoding)
    paper = read_paper(tmp_path / "own.txt", tmp_path)
    assert (paper.title, [(block.text, block.level) for block in paper.blocks]) == (
        "A Title",
        [("Some words.", 0), ("Methods", 1), ("Other words that go on.", 0)],
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_text_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write_papers(tmp_path / "text", count=3, seed=1)
    shut = next((tmp_path / "text").glob("*.txt"))
    shut.chmod(0)
    with pytest.raises(FolderUnreadable, match=shut.name):
        prepare(tmp_path / "text", tmp_path / "out")


def test_a_persons_own_wrapped_text_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for name, sand in (("a.txt", "sand"), ("b.md", "dry snow and much else that lies about in the far north of the country")):
        (folder / name).write_bytes((f"﻿Wind moves {sand} over\r\nthe dune. It falls on\r\nthe lee side.\r\n\r\nThe dune\r\nmoves on.").encode())
    prepare(folder, tmp_path)
    texts = [e.text for e in examples(tmp_path) + examples(tmp_path, "val.jsonl")]
    assert "Wind moves sand over the dune. It falls on the lee side.\n\nThe dune moves on." in texts


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_under_another_name_cannot_reach_the_other_side(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "text"
    write_papers(folder, count=12, seed=seed)
    draw = random.Random(seed)
    for k in range(12):
        text = (folder / f"paper-{k:02d}.txt").read_text()
        (folder / f"copy-{k:02d}.txt").write_text("".join(draw.choice("abcdefg") if c.isalpha() and draw.random() < 0.01 else c for c in text))
    prepare(folder, tmp_path, val_ratio=0.4, seed=seed)
    train, val = ({e.paper[-2:] for e in examples(tmp_path, name)} for name in ("train.jsonl", "val.jsonl"))
    assert not train & val
    assert len(train | val) == 12
    states = [item.get("state") for item in read_manifest(tmp_path / "dataset.json")[1].values()]
    assert states.count("duplicate") == 12


def test_papers_that_share_a_part_stay_on_one_side(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    write_papers(folder, count=20, seed=5)
    for k in range(0, 20, 2):
        shared = (folder / f"paper-{k:02d}.txt").read_text().split("\n\n")[1:8]
        with (folder / f"paper-{k + 1:02d}.txt").open("a") as file:
            file.write("\n\n".join(edited + " And so on." for edited in shared))
    prepare(folder, tmp_path, val_ratio=0.3)
    train, val = ({int(e.paper[-2:]) // 2 for e in examples(tmp_path, name)} for name in ("train.jsonl", "val.jsonl"))
    assert not train & val


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    write_papers(folder, count=6, seed=6)
    licence = "This is an open access article distributed under the terms of the Creative Commons Attribution License."
    entry = "{}. Miller A, Jones B. Measuring small rivers. J Hydrol 2004, 151(4):24{}-251."
    for k in range(6):
        with (folder / f"paper-{k:02d}.txt").open("a") as file:
            entries = "\n\n".join(entry.format(n, n) for n in range(1, 6))
            file.write(f"\n\n{licence}\n\nThe authors have no interests to declare in this.\n\n## References\n\n{entries}\n")
    german = "Die Proben wurden am Morgen genommen und kalt gehalten, bis sie verwendet wurden, wie es in diesem Fach üblich ist. " * 9
    (folder / "deutsch.txt").write_text(german)
    report = prepare(folder, tmp_path)
    assert report.states == {"ok": 6, "language": 1}
    whole = list(read_manifest(tmp_path / "dataset.json")[1].values())[-1]
    assert {reason: paragraphs for reason, (paragraphs, _) in whole["dropped"].items()} == {"references": 36, "notice": 6, "boilerplate": 6}
    assert not any("Miller" in e.text or "declare" in e.text for e in examples(tmp_path))
    page, card = (tmp_path / "report.html").read_text(), (tmp_path / "dataset_card.md").read_text()
    assert "reference lists" in page
    assert "reference lists" in card
    assert "http" not in page.replace("http-equiv", "")


def test_the_pages_hold_no_markup_of_the_papers_and_fetch_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    write_papers(folder, count=3, seed=7)
    text = (folder / "paper-00.txt").read_text()
    hostile = "<script>alert(1)</script> | [x](http://a.b) `code` <img src=//a.b/c>"
    (folder / "a|<b>[c]`.txt").write_text(f"# {hostile}\n\n" + text.split("\n\n", 1)[1].replace(". ", f". {hostile} "))
    prepare(folder, tmp_path, val_ratio=0.5, replay=general_file(tmp_path, GENERAL))
    page, card = (tmp_path / "report.html").read_text(), (tmp_path / "dataset_card.md").read_text()
    markup = re.sub(r"<(/?)(html|body|meta|title|style|h[1-3]|table|t[rdh]|p|pre|span|svg|rect|text)\b[^<>]*>|<!doctype html>", "", page)
    assert "<" not in markup
    assert "default-src 'none'" in page
    assert not re.findall(r"<[^>]*(?:src|href)=", page)
    assert "<" not in card
    assert all(line.count(" | ") in (1, 2, 3) for line in card.splitlines() if line.startswith("| "))
    assert "General text" in page
    assert "general.txt" in card


def test_every_paper_is_reported_as_it_is_finished(papers: Path, tmp_path: Path) -> None:
    events: list[object] = []
    run(PrepareConfig(input_dir=papers, output_dir=tmp_path), on_event=events.append)
    assert [e.total for e in events if isinstance(e, Started)] == [40]
    assert [e.done for e in events if isinstance(e, Unit)] == list(range(1, 41))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_papers_are_refused(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "text"
    write_papers(folder, count=count, seed=1)
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(TooFewPapers, match="one paper" if count else "no paper"):
        prepare(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "train.jsonl").exists()


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderMissing):
        prepare(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(NoInputFiles):
        prepare(tmp_path, tmp_path / "out")


GENERAL = [f"The tram to Old Town {k} leaves at noon. People read the paper on it, and Old Town {k} is small. " * 8 for k in range(60)]


def general_file(folder: Path, texts: list[str]) -> Path:
    path = folder / "general.txt"
    path.write_text("\n\x1e\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_replay_has_its_share_of_the_training_tokens_and_no_place_in_validation(papers: Path, dataset: Path, tmp_path: Path) -> None:
    general = general_file(tmp_path, GENERAL)
    report = prepare(papers, tmp_path / "out", replay=general, replay_share=0.05)
    assert any(name == "General text" and "of the tokens" in figure for name, figure in report.summary)
    train = examples(tmp_path / "out")
    replayed = [e for e in train if not e.paper]
    assert [e for e in train if e.paper] == examples(dataset)
    assert (tmp_path / "out" / "val.jsonl").read_bytes() == (dataset / "val.jsonl").read_bytes()
    assert {e.source for e in replayed} == {"general.txt"}
    assert all(e.text in " ".join(GENERAL) and not e.prompt for e in replayed)
    assert len({e.id for e in train}) == len(train)
    tokenizer = open_tokenizer(open_base("tiny").folder)
    sizes = {e.id: len(tokenizer.encode(e.prompt + e.text)) + 2 for e in train}
    assert sum(sizes[e.id] for e in replayed) / sum(sizes.values()) == pytest.approx(0.05, abs=0.003)
    assert not prepare(papers, tmp_path / "again", replay=general, replay_share=0.05).fresh
    assert (tmp_path / "again" / "train.jsonl").read_bytes() == (tmp_path / "out" / "train.jsonl").read_bytes()
    assert prepare(papers, tmp_path / "out", replay=general, replay_share=0.05).fresh
    general_file(tmp_path, GENERAL[1:])
    assert not prepare(papers, tmp_path / "out", replay=general, replay_share=0.05).fresh


def test_replay_counts_within_the_cap_on_samples_and_says_when_it_runs_short(papers: Path, tmp_path: Path) -> None:
    general = general_file(tmp_path, GENERAL)
    prepare(papers, tmp_path / "out", replay=general, max_samples=100, replay_share=0.2)
    train = examples(tmp_path / "out")
    assert 90 < len(train) <= 100
    assert sum(not e.paper for e in train) >= 15
    said: list[object] = []
    run(PrepareConfig(input_dir=papers, output_dir=tmp_path / "short", replay=general_file(tmp_path, GENERAL[:1])), on_event=said.append)
    assert any(isinstance(e, Notice) and "all of it is used" in e.text for e in said)


def test_replayed_text_from_a_validation_paper_is_left_out(papers: Path, dataset: Path, tmp_path: Path) -> None:
    held_out = sorted({e.paper for e in examples(dataset, "val.jsonl")})
    leak = [(papers / f"{name}.txt").read_text(encoding="utf-8") for name in held_out]
    said: list[object] = []
    settings = PrepareConfig(input_dir=papers, output_dir=tmp_path, replay=general_file(tmp_path, [*leak, *GENERAL]), replay_share=0.5)
    run(settings, on_event=said.append)
    assert {e.text for e in running_text(examples(tmp_path, "val.jsonl"))}.isdisjoint(e.text for e in examples(tmp_path))
    assert any(isinstance(e, Notice) and f"{len(leak)} passages" in e.text for e in said)


def test_papers_too_short_to_be_compared_hinder_no_replay(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for k, colour in enumerate(("red", "blue")):
        (folder / f"{k}.txt").write_text(f"# On {colour}\n\nA sky that is {colour} is seen at dusk.")
    report = prepare(folder, tmp_path, replay=general_file(tmp_path, GENERAL))
    assert report.states == {"ok": 2}


@pytest.mark.parametrize(
    ("name", "content", "said"), [("g.jsonl", b'{"words": "x"}\n', "byte 0"), ("g.txt", b"", "no text"), ("absent.txt", None, "read")]
)
def test_a_replay_file_that_cannot_be_used_is_refused(papers: Path, tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadDataset, match=said):
        prepare(papers, tmp_path / "out", replay=tmp_path / name)


def test_a_long_document_and_json_lines_are_replayed_in_passages(papers: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n\n".join(GENERAL * 20), encoding="utf-8")
    (tmp_path / "many.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in GENERAL), encoding="utf-8")
    for name in ("book.txt", "many.jsonl"):
        prepare(papers, tmp_path / name[:4], replay=tmp_path / name, replay_share=0.05)
        replayed = [e for e in examples(tmp_path / name[:4]) if not e.paper]
        assert replayed
        assert sum(e.end for e in replayed) == (0 if name == "book.txt" else len({e.text for e in replayed}))


def test_sections_are_learnt_after_the_paper_so_far_as_it_is_written(papers: Path, tmp_path: Path) -> None:
    prepare(papers, tmp_path, mix=("section",))
    tokenizer = open_tokenizer(open_base("tiny").folder)
    seen = 0
    for example in examples(tmp_path) + examples(tmp_path, "val.jsonl"):
        if example.prompt.endswith("## Results\n\n"):
            text = (papers / f"{example.paper}.txt").read_text(encoding="utf-8")
            title = text.split("\n", 1)[0][2:]
            before = [part.split("\n\n", 1) for part in text[: text.index("## Results")].split("\n\n## ")[1:]]
            sections = [(name, body.strip()) for name, body in before]
            count = lambda words: len(tokenizer.encode(words))  # noqa: E731
            assert example.prompt == prompts.section(title, sections, ("Results",), "", room=128, count=count)
            seen += "## Abstract\n\n" in example.prompt
    assert seen


def test_a_section_is_learnt_with_its_heading_after_the_one_before(papers: Path, tmp_path: Path) -> None:
    prepare(papers, tmp_path, mix=("next",))
    everything = examples(tmp_path) + examples(tmp_path, "val.jsonl")
    methods = [e for e in everything if e.text.startswith("## Methods\n\n")]
    assert len(methods) > 20
    for example in methods:
        text = (papers / f"{example.paper}.txt").read_text(encoding="utf-8")
        assert text[slice(*example.span)] == example.text
        opening, _, end = example.prompt.partition("## Introduction\n\n")
        assert opening == text.split("\n", 1)[0] + "\n\n"
        assert text[: text.index("## Methods")].endswith(end.removeprefix("…\n\n"))


@pytest.mark.parametrize("mix", ["next=2", "section=x", "letters=0.1", "section=0.6,next=0.6"])
def test_a_mix_that_cannot_be_is_refused(papers: Path, tmp_path: Path, mix: str) -> None:
    with pytest.raises(BadValue, match="--mix"):
        prepare(papers, tmp_path, mix=tuple(mix.split(",")))


def test_running_text_is_learnt_once_whatever_the_mix(papers: Path, tmp_path: Path) -> None:
    for name, mix in (("plain", "continuation"), ("mixed", "section=0.5,next=0.5")):
        prepare(papers, tmp_path / name, mix=tuple(mix.split(",")), overlap=0)
        spans: dict[str, int] = {}
        for example in examples(tmp_path / name) + examples(tmp_path / name, "val.jsonl"):
            assert example.span
            assert example.span[0] >= spans.get(example.paper, 0)
            spans[example.paper] = example.span[1]
