"""Files in, texts and sidecars out; what is done stays done; every file's end is told."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pypdf import PdfWriter

from papertune.config import ExtractConfig
from papertune.errors import BadValue, FolderMissing, MissingLibrary, MissingWeights, NoInputFiles, NothingExtracted
from papertune.events import Event, Notice, Report, Unit, ignore
from papertune.extract import backend, engines
from papertune.extract.stage import run
from papertune.manifest import Manifest, read_manifest
from papertune.records import Document
from tests import hostile
from tests.misbehaving import MAKER, NO_BACKEND, bad_paper

ENGINE = "fast"
Extract = Callable[..., Report]


@pytest.fixture
def pdfs(tmp_path: Path) -> Path:
    folder = tmp_path / "pdfs"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "extracted"


@pytest.fixture
def extract(pdfs: Path, out: Path) -> Extract:
    def call(*folders: Path, on_event: Callable[[Event], None] = ignore, **settings: object) -> Report:
        given = {"input_dir": folders or (pdfs,), "output_dir": out, "device": "cpu", "engine": ENGINE, "workers": 2, **settings}
        return run(ExtractConfig(**given), on_event=on_event)  # type: ignore[arg-type]

    return call


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".txt", ".json") and not path.name.startswith(".")}


def states(out: Path) -> dict[str, str]:
    return {key.rpartition("/")[2]: item["state"] for key, item in read_manifest(out / ".resume.json")[1].items()}


def test_a_pdf_and_an_epub_become_text_and_sidecar(pdfs: Path, out: Path, extract: Extract) -> None:
    (pdfs / "willow.pdf").write_bytes(hostile.pdf(hostile.PROSE, hostile.PROSE.upper()))
    (pdfs / "deep").mkdir()
    (pdfs / "deep" / "rings.epub").write_bytes(hostile.epub())
    report = extract()
    assert "They agreed within two years." in (out / "willow.txt").read_text()
    assert (out / "rings.txt").read_text() == f"# On Willows\n\n## Rings\n\n{hostile.PROSE}\n"
    document = Document.from_json((out / "willow.blocks.json").read_text())
    assert (document.source, document.engine, document.pages) == ("willow.pdf", "fast", 2)
    assert Document.from_json((out / "rings.blocks.json").read_text()).source == "deep/rings.epub"
    assert report.states == {"ok": 2}
    assert sorted(report.written) == [out / "rings.txt", out / "willow.txt"]
    assert not report.fresh
    assert str(out) in report.next_command


def test_every_file_has_an_output_of_its_own_whatever_the_order_of_work(pdfs: Path, out: Path, extract: Extract, tmp_path: Path) -> None:
    for number, name in enumerate(["paper.pdf", "a/paper.pdf", "b/paper.pdf", "b/PAPER.pdf"]):
        (pdfs / name).parent.mkdir(exist_ok=True)
        (pdfs / name).write_bytes(hostile.paper(number))
    (pdfs / "paper.epub").write_bytes(hostile.epub())
    assert extract(workers=3).states == {"ok": 5}
    assert len(outputs(out)) == 10
    assert extract(workers=1, output_dir=tmp_path / "again").states == {"ok": 5}
    assert outputs(tmp_path / "again") == outputs(out)
    assert Document.from_json((out / "paper.blocks.json").read_text()).source == "paper.pdf"


def test_the_same_bytes_are_read_once(pdfs: Path, out: Path, extract: Extract) -> None:
    for name in ["a.pdf", "b.pdf", "c.pdf"]:
        (pdfs / name).write_bytes(hostile.paper(1))
    assert extract().states == {"ok": 1, "duplicate": 2}
    assert set(outputs(out)) == {"a.txt", "a.blocks.json"}
    assert extract().fresh


def test_done_work_is_not_done_again(pdfs: Path, out: Path, extract: Extract) -> None:
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    (pdfs / "locked.pdf").write_bytes(hostile.CORPUS["locked.pdf"][0]())
    first = extract()
    assert first.states == {"ok": 1, "needs_password": 1}
    (out / "a.txt").write_text("corrected by hand\n")
    again = extract()
    assert again.fresh
    assert again.states == first.states
    assert (out / "a.txt").read_text() == "corrected by hand\n"


@pytest.mark.parametrize("change", ["content", "setting", "output gone", "sidecar gone", "--no-resume"])
def test_what_changed_is_done_again_and_nothing_else(change: str, pdfs: Path, out: Path, extract: Extract) -> None:
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    (pdfs / "b.pdf").write_bytes(hostile.paper(2))
    extract()
    settings: dict[str, object] = {}
    expected = [out / "a.txt"]
    match change:
        case "content":
            (pdfs / "a.pdf").write_bytes(hostile.paper(3))
        case "setting":
            settings, expected = {"min_length": 150}, [out / "a.txt", out / "b.txt"]
        case "output gone":
            (out / "a.txt").unlink()
        case "sidecar gone":
            (out / "a.blocks.json").unlink()
        case "--no-resume":
            settings, expected = {"resume": False}, [out / "a.txt", out / "b.txt"]
    assert sorted(extract(**settings).written) == expected
    assert extract(**{**settings, "resume": True}).fresh


def test_what_is_too_short_is_left_out_and_an_earlier_text_of_it_too(pdfs: Path, out: Path, extract: Extract) -> None:
    (pdfs / "short.pdf").write_bytes(hostile.pdf("Nothing much happened."))
    (pdfs / "long.pdf").write_bytes(hostile.paper(1))
    assert extract(min_length=10).states == {"ok": 2}
    assert extract(min_length=200).states == {"ok": 1, "too_short": 1}
    assert set(outputs(out)) == {"long.txt", "long.blocks.json"}


def test_outputs_of_files_that_are_gone_stay_and_are_named(pdfs: Path, out: Path, extract: Extract) -> None:
    for number, name in enumerate("abcd"):
        (pdfs / f"{name}.pdf").write_bytes(hostile.paper(number))
    (out / "own.txt").parent.mkdir(exist_ok=True)
    (out / "own.txt").write_text("A text of my own.")
    assert "kept" not in dict(extract().summary)
    (pdfs / "a.pdf").unlink()
    (pdfs / "b.pdf").write_bytes(b"<html>")
    (pdfs / "c.pdf").write_bytes(hostile.pdf("Nothing much happened."))
    report = extract()
    assert report.states == {"ok": 1, "not_pdf": 1, "too_short": 1}
    assert {path.name for path in out.glob("*.txt")} == {"a.txt", "b.txt", "d.txt", "own.txt"}
    kept = dict(report.summary)["kept"]
    assert kept.startswith("2: a.txt, b.txt: ")
    assert dict(extract().summary)["kept"] == kept
    (out / "a.txt").unlink()
    assert dict(extract().summary)["kept"].startswith("1: b.txt: ")


def test_a_paper_of_another_folder_does_not_take_the_place_of_one_read_before(pdfs: Path, out: Path, extract: Extract, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    (tmp_path / "more" / "a.pdf").write_bytes(hostile.paper(2))
    extract()
    first = outputs(out)
    extract(tmp_path / "more")
    assert len(outputs(out)) == 4
    assert first.items() <= outputs(out).items()
    both = outputs(out)
    assert extract(pdfs, tmp_path / "more").fresh
    assert outputs(out) == both


def test_two_papers_that_share_a_text_are_read_apart(pdfs: Path, out: Path, extract: Extract, tmp_path: Path) -> None:
    """As a version of papertune left them that let one overwrite the other."""
    (tmp_path / "more").mkdir()
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    (tmp_path / "more" / "a.pdf").write_bytes(hostile.paper(2))
    extract()
    text = (out / "a.txt").read_text()
    extract(tmp_path / "more")
    items = read_manifest(out / ".resume.json")[1]
    for suffix in ("txt", "blocks.json"):
        (out / f"{items['../more/a.pdf']['output']}.{suffix}").replace(out / f"a.{suffix}")
    with Manifest(out / ".resume.json", {}) as manifest:
        manifest.record(**{**items["../more/a.pdf"], "output": "a"})
    assert extract(pdfs, tmp_path / "more").states == {"ok": 2}
    assert sorted(path.read_text() == text for path in out.glob("*.txt")) == [False, True]
    assert extract().fresh


def test_a_folder_that_was_moved_keeps_its_names(pdfs: Path, out: Path, extract: Extract, tmp_path: Path) -> None:
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    extract()
    before = outputs(out)
    extract(pdfs.rename(tmp_path / "papers"))
    assert outputs(out) == before


def test_a_persons_own_texts_are_not_written_over_nor_removed(pdfs: Path, extract: Extract) -> None:
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    (pdfs / "scan.pdf").write_bytes(hostile.pdf(""))
    for name in ("a.txt", "scan.txt"):
        (pdfs / name).write_text("my own notes")
    assert extract(output_dir=pdfs).states == {"ok": 1, "too_short": 1}
    assert [(pdfs / name).read_text() for name in ("a.txt", "scan.txt")] == ["my own notes"] * 2
    assert [path for path in pdfs.glob("*.txt") if path.name.startswith("a-")]
    assert extract(output_dir=pdfs).fresh


def test_a_text_that_was_edited_is_set_aside_when_it_must_be_written_anew(pdfs: Path, out: Path, extract: Extract) -> None:
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    extract()
    (out / "a.txt").write_text("corrected by hand\n")
    events: list[Event] = []
    extract(min_length=150, on_event=events.append)
    (aside,) = out.glob("a.txt.edited-*")
    assert aside.read_text() == "corrected by hand\n"
    assert "corrected" not in (out / "a.txt").read_text()
    assert [event.text for event in events if isinstance(event, Notice) and aside.name in event.text]


@pytest.mark.skipif(sys.platform == "win32", reason="names and pipes that Windows has not")
def test_odd_names_and_odd_files_are_fine(pdfs: Path, out: Path, extract: Extract) -> None:
    for name, data in hostile.ODD_NAMES.items():
        Path(os.fsdecode(os.fsencode(pdfs) + b"/" + name)).write_bytes(data)
    os.mkfifo(pdfs / "pipe.pdf")
    (pdfs / "loop").symlink_to(pdfs)
    (pdfs / "gone.pdf").symlink_to("nowhere.pdf")
    assert extract().states == {"ok": len(hostile.ODD_NAMES), "unreadable": 2}
    assert len(outputs(out)) == 2 * len(hostile.ODD_NAMES)
    assert extract().fresh
    for name in outputs(out):
        assert name.isprintable()
        assert len(name.encode()) <= 220


def test_a_run_stopped_between_two_files_goes_on_where_it_was(pdfs: Path, out: Path, extract: Extract, tmp_path: Path) -> None:
    for number in range(6):
        (pdfs / f"{number}.pdf").write_bytes(hostile.paper(number))

    def stop(event: Event) -> None:
        if isinstance(event, Unit) and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(on_event=stop)
    assert list(states(out).values()).count("ok") == 2
    assert "started" not in states(out).values()
    report = extract()
    assert report.states == {"ok": 6}
    assert len(report.written) == 4
    extract(output_dir=tmp_path / "whole")
    assert outputs(out) == outputs(tmp_path / "whole")


def test_a_file_that_changes_while_it_is_read_is_read_in_the_next_run(pdfs: Path, extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.BACKENDS, "fast", MAKER)
    (pdfs / "growing.pdf").write_bytes(bad_paper("grow", 1))
    (pdfs / "still.pdf").write_bytes(hostile.paper(2))
    assert extract().states == {"changed": 1, "ok": 1}
    monkeypatch.undo()
    assert extract().states == {"ok": 2}


def test_a_file_that_vanishes_while_it_is_read_is_no_trouble(pdfs: Path, extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.BACKENDS, "fast", MAKER)
    (pdfs / "gone.pdf").write_bytes(bad_paper("vanish", 1))
    (pdfs / "still.pdf").write_bytes(hostile.paper(2))
    assert extract().states == {"unreadable": 1, "ok": 1}
    assert extract().states == {"ok": 1}


def test_the_log_has_every_file_and_what_workers_print(pdfs: Path, out: Path, extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.BACKENDS, "fast", MAKER)
    (pdfs / "a.pdf").write_bytes(bad_paper("chatter", 1))
    (pdfs / "page.pdf").write_bytes(b"<html>")
    extract()
    log = (out / "extract.log").read_text()
    assert "a.pdf: ok by fast" in log
    assert "page.pdf: not_pdf" in log
    assert "native noise" in log


def test_wrong_input_is_told_in_one_line(pdfs: Path, out: Path, extract: Extract) -> None:
    with pytest.raises(FolderMissing):
        extract(pdfs / "nowhere")
    with pytest.raises(NoInputFiles):
        extract()
    assert not out.exists()
    (pdfs / "page.pdf").write_bytes(b"<html>")
    with pytest.raises(NothingExtracted, match="1 not_pdf"):
        extract()


def notices(extract: Extract, **settings: object) -> list[str]:
    heard: list[str] = []
    extract(on_event=lambda event: heard.append(event.text) if isinstance(event, Notice) else None, **settings)
    return heard


def test_auto_says_how_to_get_docling_where_that_would_help(pdfs: Path, extract: Extract, tmp_path: Path) -> None:
    pytest.importorskip("docling")
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    assert notices(extract, engine="auto", device="cuda", docling_models=tmp_path) == []
    (pdfs / "odd.pdf").write_bytes(hostile.pdf(hostile.PROSE, hostile.scattered(1), hostile.PROSE))
    for _ in range(2):
        [notice] = notices(extract, engine="auto", device="cuda", docling_models=tmp_path)
        assert notice.startswith("1 files have pages")
        assert "docling-tools models download layout" in notice


def test_docling_asked_for_without_weights_names_the_command(pdfs: Path, extract: Extract, tmp_path: Path) -> None:
    pytest.importorskip("docling")
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    with pytest.raises(MissingWeights, match="docling-tools models download layout"):
        extract(engine="docling", docling_models=tmp_path)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for one with Docling's weights, on a machine without a GPU, and one who passes for Docling."""
    monkeypatch.setitem(backend.BACKENDS, "docling", NO_BACKEND)
    monkeypatch.setitem(backend.BACKENDS, "second-look", ("tests.misbehaving:open_second_look", ()))
    monkeypatch.setattr(engines, "gpus", lambda: ())
    weights = tmp_path / "models" / "docling-project--docling-layout-heron" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    return tmp_path / "models"


def test_auto_gives_doubtful_pages_to_docling_and_keeps_the_others(
    pdfs: Path, out: Path, extract: Extract, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backend.BACKENDS, "ocr", ("tests.misbehaving:open_recogniser", ("no_such_library",)))
    (pdfs / "clear.pdf").write_bytes(hostile.paper(1))
    (pdfs / "odd.pdf").write_bytes(hostile.pdf(hostile.PROSE, hostile.scattered(1), f"Behind it. {hostile.PROSE}"))
    assert extract(engine="auto", docling_models=models).states == {"ok": 2}
    text = (out / "odd.txt").read_text()
    assert text == f"## 1 Introduction\n\n{hostile.PROSE}\n\nSeen by Docling on page 2.\n\nBehind it. {hostile.PROSE}\n"
    engines_of = {name: Document.from_json((out / f"{name}.blocks.json").read_text()).engine for name in ("clear", "odd")}
    assert engines_of == {"clear": "fast", "odd": "fast+docling"}
    assert "of doubtful layout: [2]" in (out / "extract.log").read_text()
    assert extract(engine="auto", docling_models=models).fresh
    assert extract(engine="fast", output_dir=tmp_path / "fast").states == {"ok": 2}
    assert Document.from_json((tmp_path / "fast" / "odd.blocks.json").read_text()).engine == "fast"


def test_a_second_look_that_fails_leaves_the_first_one(pdfs: Path, out: Path, extract: Extract, models: Path, tmp_path: Path) -> None:
    (pdfs / "odd.pdf").write_bytes(hostile.pdf(hostile.PROSE, hostile.scattered(1)) + b"%misbehave: segfault\n")
    extract(engine="auto", docling_models=models)
    [item] = read_manifest(out / ".resume.json")[1].values()
    assert (item["state"], item["engine"], [failure[:2] for failure in item["failures"]]) == ("ok", "fast", [["second-look", "crash"]])
    extract(engine="fast", output_dir=tmp_path / "fast")
    assert outputs(out) == outputs(tmp_path / "fast")


def test_doubtful_files_alone_are_read_again_once_docling_is_there(pdfs: Path, out: Path, extract: Extract, models: Path, tmp_path: Path) -> None:
    (pdfs / "clear.pdf").write_bytes(hostile.paper(1))
    (pdfs / "odd.pdf").write_bytes(hostile.pdf(hostile.PROSE, hostile.scattered(1), hostile.PROSE))
    extract(engine="auto", docling_models=tmp_path)
    document = Document.from_json((out / "odd.blocks.json").read_text())
    assert (document.engine, document.unsure, document.unread) == ("fast", (2,), ())
    assert extract(engine="auto", docling_models=tmp_path).fresh
    assert extract(engine="auto", docling_models=models).written == [out / "odd.txt"]
    document = Document.from_json((out / "odd.blocks.json").read_text())
    assert (document.engine, document.unsure) == ("fast+docling", ())
    assert extract(engine="auto", docling_models=models).fresh


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_stopped_before_the_second_look_goes_on_with_it(killed: bool, pdfs: Path, out: Path, extract: Extract, models: Path) -> None:
    (pdfs / "clear.pdf").write_bytes(hostile.paper(1))
    (pdfs / "odd.pdf").write_bytes(hostile.pdf(hostile.PROSE, hostile.scattered(1), hostile.PROSE))

    def stop(event: Event) -> None:
        if isinstance(event, Unit):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(engine="auto", docling_models=models, workers=1, on_event=stop)
    assert states(out) == {"clear.pdf": "ok", "odd.pdf": "waiting"}
    if killed:  # as if the end had come in the midst of it
        with Manifest(out / ".resume.json", {}) as manifest:
            [item] = [item for item in manifest.items.values() if item["state"] == "waiting"]
            manifest.record(**{**item, "state": "started"})
    extract(engine="auto", docling_models=models)
    assert "Seen by Docling on page 2." in (out / "odd.txt").read_text()
    assert (out / "extract.log").read_text().count("odd.pdf: fast is not sure of it") == 1


def test_auto_recognises_the_scanned_pages_among_others(pdfs: Path, out: Path, extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.BACKENDS, "ocr", ("tests.misbehaving:open_recogniser", ()))
    monkeypatch.setitem(backend.BACKENDS, "second-look", ("tests.misbehaving:open_second_look", ()))
    (pdfs / "mixed.pdf").write_bytes(hostile.with_scanned_page())
    assert extract(engine="auto").states == {"ok": 1}
    document = Document.from_json((out / "mixed.blocks.json").read_text())
    assert document.engine == "fast+ocr"
    text = " ".join(block.text for block in document.blocks)
    assert 0 <= text.index("The willow") < text.index("Recognised on page 2.") < text.index("Behind the picture.")


def test_auto_without_a_gpu_reads_doubtful_pages_on_the_cpu_and_says_so(pdfs: Path, extract: Extract, models: Path) -> None:
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    [notice] = notices(extract, engine="auto", device="cuda", docling_models=models)
    assert notice.startswith("No CUDA device")
    assert notices(extract, engine="auto", device="cpu", docling_models=models) == []


def test_files_of_a_state_are_read_again_when_asked_for(pdfs: Path, out: Path, extract: Extract) -> None:
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    (pdfs / "b.pdf").write_bytes(hostile.CORPUS["head-alone.pdf"][0]())
    extract()
    report = extract(retry=("damaged", "limit_time"))
    assert not report.fresh
    assert report.written == []
    assert (out / "extract.log").read_text().count("b.pdf: damaged") == 2
    with pytest.raises(BadValue, match="'broken' is not a known state"):
        extract(retry=("broken",))


def test_a_file_that_hit_a_limit_is_read_again_under_a_higher_one(pdfs: Path, extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.BACKENDS, "fast", MAKER)
    for engine in ("pypdf", "pdfplumber"):
        monkeypatch.setitem(backend.BACKENDS, engine, NO_BACKEND)
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    (pdfs / "slow.pdf").write_bytes(bad_paper("hang", 2))
    assert extract(timeout=4.0).states == {"ok": 1, "limit_time": 1}
    assert extract(timeout=4.0).fresh
    monkeypatch.undo()
    assert extract(timeout=60.0).states == {"ok": 2}


def test_the_summary_names_the_files_without_a_text_by_state(pdfs: Path, extract: Extract) -> None:
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    for number in range(5):
        (pdfs / f"page{number}.pdf").write_bytes(b"<html>%d" % number)
    assert ("not_pdf", "5: page0.pdf, page1.pdf, page2.pdf and 2 more") in extract().summary


def test_scans_are_told_of_and_read_once_recognition_is_installed(
    pdfs: Path, out: Path, extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pdfs / "scan.pdf").write_bytes(hostile.CORPUS["scan.pdf"][0]())
    (pdfs / "paper.pdf").write_bytes(hostile.paper(1))
    monkeypatch.setitem(backend.BACKENDS, "ocr", ("tests.misbehaving:open_recogniser", ("no_such_library",)))
    [notice] = notices(extract)
    assert "papertune[ocr]" in notice
    with pytest.raises(MissingLibrary, match="no_such_library"):
        extract(ocr="force")
    monkeypatch.setitem(backend.BACKENDS, "ocr", ("tests.misbehaving:open_recogniser", ()))
    assert extract(ocr="off").fresh
    report = extract()
    assert (report.states, report.written) == ({"ok": 2}, [out / "scan.txt"])
    assert (out / "scan.txt").read_text() == hostile.PROSE + "\n"
    assert Document.from_json((out / "scan.blocks.json").read_text()).engine == "ocr"
    assert extract().fresh
    assert len(extract(ocr="force").written) == 2


def test_a_scan_in_which_recognition_fails_has_no_text(pdfs: Path, extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.BACKENDS, "ocr", MAKER)
    (pdfs / "scan.pdf").write_bytes(hostile.CORPUS["scan.pdf"][0]() + b"%misbehave: segfault\n")
    (pdfs / "paper.pdf").write_bytes(hostile.paper(1))
    assert extract().states == {"ok": 1, "no_text": 1}
    assert extract().fresh


def test_recognition_reads_a_rendered_page(pdfs: Path, out: Path, extract: Extract) -> None:
    pytest.importorskip("rapidocr")
    pdfium = pytest.importorskip("pypdfium2")
    pytest.importorskip("PIL")
    page = pdfium.PdfDocument(hostile.pdf(hostile.PROSE))[0]
    page.render(scale=2).to_pil().save(pdfs / "scan.pdf", resolution=144)
    mixed = PdfWriter()
    for part in (hostile.pdf(hostile.PROSE.replace("willow", "alder")), (pdfs / "scan.pdf").read_bytes()):
        mixed.append(io.BytesIO(part))
    mixed.write(pdfs / "mixed.pdf")
    assert extract(engine="auto", timeout=60.0).states == {"ok": 2}
    assert "willow stood by the water" in (out / "scan.txt").read_text()
    text = (out / "mixed.txt").read_text()
    assert 0 < text.index("alder stood by the water") < text.index("willow stood by the water")
    assert Document.from_json((out / "mixed.blocks.json").read_text()).engine == "fast+ocr"


def test_resume_json_is_json(pdfs: Path, out: Path, extract: Extract) -> None:
    (pdfs / "a.pdf").write_bytes(hostile.paper(1))
    extract()
    whole = json.loads((out / ".resume.json").read_text())
    assert whole["header"]["step"] == "extract"
    assert whole["items"][-1]["state"] == "ok"
