"""The analyzer: every part of an analysis for every paper, pages from the paper and not from the model, resumed answer by answer."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from papertune.analyze.paper import Paper
from papertune.analyze.stage import PARTS, referenced, run
from papertune.analyze.themes import themes
from papertune.config import AnalyzeConfig
from papertune.errors import BadValue, FolderMissing, NoInputFiles, OllamaUnavailable
from papertune.events import Event, Notice, Unit
from papertune.records import Block, Document, Place
from tests.fake_ollama import Body, FakeOllama

PAPERS = Path(__file__).parents[2].parent / "shared" / "papers"
ROOTS = "Beech roots took up water mainly below forty centimetres during the dry summer of the second year."
PORES = "Coarse pores drained within two hours after heavy rain, and fine pores held water for eleven weeks."


def document(source: str, title: str, *texts: str) -> Document:
    """A paragraph a page, each in a section of its own."""
    blocks = [Block("title", title, (Place(1),))]
    for page, text in enumerate(texts, 1):
        blocks += [Block("heading", f"Section {page}", (Place(page),), 1), Block("paragraph", text, (Place(page),))]
    return Document(source, "0" * 64, "fast", len(texts), tuple(blocks))


def write_epub(path: Path, title: str, *paragraphs: str) -> Path:
    body = "".join(f"<h2>Part {i}</h2><p>{text}</p>" for i, text in enumerate(paragraphs, 1))
    container = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="c.opf"/></rootfiles></container>'
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></metadata>'
        '<manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="a"/></spine></package>'
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("mimetype", "application/epub+zip")
        file.writestr("META-INF/container.xml", container)
        file.writestr("c.opf", package)
        file.writestr("a.xhtml", f'<html xmlns="http://www.w3.org/1999/xhtml"><body><h1>{title}</h1>{body}</body></html>')
    return path


def answer(request: Body) -> list[str]:
    heading = re.findall(r"^## (.*)$", request["prompt"], re.MULTILINE)[-1]
    return [f"This part speaks of {heading.lower().rstrip('?')} in words of the model. ", f"{ROOTS} "]


@pytest.fixture
def ollama() -> Iterator[FakeOllama]:
    with FakeOllama(answers=answer) as server:
        server.models["scientific-mistral:latest"] = {}
        yield server


@pytest.fixture
def config(ollama: FakeOllama, tmp_path: Path) -> Callable[..., AnalyzeConfig]:
    first = write_epub(tmp_path / "roots.epub", "On roots", ROOTS * 3, PORES * 2)
    (tmp_path / "more").mkdir()
    write_epub(tmp_path / "more" / "pores.epub", "On pores", PORES * 3, ROOTS * 2)
    (tmp_path / "questions.txt").write_text("How deep did roots take up water?\n\nHow long did pores hold it?\n")

    def make(**changes: object) -> AnalyzeConfig:
        settings: dict[str, object] = {
            "paper": (first, tmp_path / "more"),
            "output": tmp_path / "analysis",
            "questions": tmp_path / "questions.txt",
            "host": ollama.url,
            "context": 1024,
        }
        return AnalyzeConfig(**{**settings, **changes})  # type: ignore[arg-type]

    return make


def test_every_paper_gets_every_part_and_all_get_their_themes(config: Callable[..., AnalyzeConfig]) -> None:
    report = run(config())
    assert [path.name for path in report.written] == ["roots.md", "pores.md", "themes.md"]
    text = report.written[0].read_text()
    assert text.startswith("# On roots\n\nroots.epub")
    headings = re.findall(r"^##+ (.*)$", text, re.MULTILINE)
    assert headings[: len(PARTS)] == list(PARTS)
    assert "How deep did roots take up water?" in headings
    assert "Section by section" in headings
    assert "water" in report.written[2].read_text()


def test_what_is_next_works_where_it_is_typed(config: Callable[..., AnalyzeConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(config()).next_command == ""
    analysis = tmp_path / "analysis" / "roots.md"
    for folder, flag in (("finetune/dataset", " --against finetune/dataset/train.jsonl"), ("dataset", "")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "train.jsonl").touch()
        assert run(config()).next_command == f"papertune check {analysis}{flag}"


def test_a_stopped_run_asks_nothing_twice(config: Callable[..., AnalyzeConfig], ollama: FakeOllama) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Unit) and event.label.endswith(": Findings"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(), on_event=stop)
    before = [body["prompt"] for body in ollama.sent("/api/generate")]
    run(config())
    after = [body["prompt"] for body in ollama.sent("/api/generate")][len(before) :]
    assert before
    assert after
    assert not set(before) & set(after)
    assert run(config()).fresh


def test_no_page_takes_the_place_of_another_papers_or_of_the_themes(config: Callable[..., AnalyzeConfig], tmp_path: Path) -> None:
    (tmp_path / "clash" / "s").mkdir(parents=True)
    papers = {"b.epub": "On bark", "b-2.epub": "On beech", "s/b.epub": "On birch", "themes.epub": "On themes"}
    for name, title in papers.items():
        write_epub(tmp_path / "clash" / name, title, ROOTS * 2)
    report = run(config(paper=(tmp_path / "clash",), questions=None))
    assert len({path.name for path in report.written}) == len(papers) + 1
    *pages, common = report.written
    assert {path.read_text().split("\n")[0] for path in pages} == {f"# {title}" for title in papers.values()}
    assert common.name == "themes.md"
    assert common.read_text().startswith("# Related themes")


def test_another_paper_of_the_same_name_gets_another_page(config: Callable[..., AnalyzeConfig], tmp_path: Path) -> None:
    for folder, title in (("one", "On one"), ("two", "On two")):
        (tmp_path / folder).mkdir()
        write_epub(tmp_path / folder / "paper.epub", title, ROOTS * 2)
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "paper-2.md").write_text("Notes of mine.")
    events: list[Event] = []
    for _ in range(2):
        for folder, name in (("one", "paper.md"), ("two", "paper-3.md")):
            report = run(config(paper=(tmp_path / folder / "paper.epub",)), on_event=events.append)
            assert [path.name for path in report.written] == [name]
            assert report.written[0].read_text().startswith(f"# On {folder}\n")
    assert report.fresh
    assert (tmp_path / "analysis" / "paper-2.md").read_text() == "Notes of mine."
    told = [event.text for event in events if isinstance(event, Notice) and "another's" in event.text]
    assert told == ["paper.md is another's; the analysis of paper.epub is paper-3.md."]


def test_a_page_that_was_edited_stays_or_is_kept_beside_the_new_one(config: Callable[..., AnalyzeConfig], tmp_path: Path) -> None:
    run(config())
    page = tmp_path / "analysis" / "roots.md"
    written = page.read_text()
    page.write_text(written + "My own words.\n")
    events: list[Event] = []
    assert run(config(), on_event=events.append).fresh
    assert page.read_text() == written + "My own words.\n"
    run(config(questions=None), on_event=events.append)
    assert "My own words." not in page.read_text()
    (kept,) = page.parent.glob("roots.edited-*.md")
    assert kept.read_text() == written + "My own words.\n"
    told = [event.text for event in events if isinstance(event, Notice) and "edited" in event.text]
    assert len(told) == 2
    assert kept.name in told[1]


def test_a_model_that_was_trained_anew_is_asked_anew(config: Callable[..., AnalyzeConfig], ollama: FakeOllama, tmp_path: Path) -> None:
    run(config())
    ollama.models["scientific-mistral:latest"] = {"files": {"model.gguf": "sha256:1"}}
    ollama.answers = lambda _request: ["The new model has other things to say of this part. "]
    assert not run(config()).fresh
    assert "The new model" in (tmp_path / "analysis" / "roots.md").read_text()
    assert ROOTS not in (tmp_path / "analysis" / "roots.md").read_text()


def test_a_page_is_given_only_where_the_paper_bears_the_sentence_out() -> None:
    paper = Paper(document("a.pdf", "T", PORES, ROOTS))
    told = "Roots of beech took up water below forty centimetres in summer. Unicorns prefer cheese over hay nowadays."
    assert referenced(paper, told) == told.replace("summer.", "summer. [page 2]")


def test_readings_lose_no_word_and_fit() -> None:
    paper = Paper(document("a.pdf", "T", PORES * 5, ROOTS))
    readings = paper.readings(120, len)
    assert all(len(reading.text) <= 120 for reading in readings)
    assert "".join(r.text for r in readings).replace("\n\n", "") == PORES * 5 + ROOTS
    assert readings[-1].pages == (2, 2)


def test_themes_are_terms_of_several_papers_with_their_pages() -> None:
    shared = "The fine pores hold the water. Nothing but fine pores does. "
    papers = [Paper(document("a.pdf", "A", shared * 2, ROOTS)), Paper(document("b.pdf", "B", "A word. " + ROOTS[:20], shared))]
    found = themes(papers)
    assert [theme.term for theme in found][:1] == ["fine pores"]
    assert found[0].pages == {0: [1], 1: [2]}


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"paper": (Path("nowhere.pdf"),)}, FolderMissing, r"nowhere\.pdf"),
        ({"paper": (Path(__file__),)}, NoInputFiles, "neither PDF nor EPUB"),
        ({"questions": Path("nowhere.txt")}, BadValue, "--questions"),
        ({"host": "http://127.0.0.1:9"}, OllamaUnavailable, "--gguf"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    config: Callable[..., AnalyzeConfig], changes: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        run(config(**changes))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_published_papers_come_out_whole_through_the_demos_model(config: Callable[..., AnalyzeConfig], demo_gguf: Path, tmp_path: Path) -> None:
    """The structure and the pages; what the toy model says is worth nothing."""
    pdfs = sorted((PAPERS / "pdf").glob("*.pdf"))[:3]
    if not pdfs:
        pytest.skip(f"the papers are not at {PAPERS}")
    report = run(config(paper=tuple(pdfs), gguf=demo_gguf, threads=1))
    questions = (tmp_path / "questions.txt").read_text().split("\n\n")
    for path in pdfs:
        written = (tmp_path / "analysis" / f"{path.stem}.md").read_text()
        assert set(PARTS) <= set(re.findall(r"^## (.*)$", written, re.MULTILINE))
        assert all(question.strip() in written for question in questions)
    assert (tmp_path / "analysis" / "themes.md").exists()
    assert report.states["ok"] == 3
    assert run(config(paper=tuple(pdfs), gguf=demo_gguf, threads=1)).fresh
