"""``pdf_analyzer_pro.py``: papers to structured analyses with page references, and what several of them have in common.

The text comes from our own extraction, the words from the model, the page references from neither: each sentence of the model is given the page of
the paragraph that shares most words with it, and none where no paragraph does. Every answer of the model is journalled in ``.resume.json``;
a run that was stopped goes on with the next one.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from os import link
from pathlib import Path

from papertune.analyze.paper import Pages, Paper, Reading
from papertune.analyze.shelf import THEMES, Shelf
from papertune.analyze.themes import Theme, themes
from papertune.config import AnalyzeConfig, CheckConfig, ExtractConfig
from papertune.errors import BadValue, FolderMissing, NoInputFiles, from_os_error
from papertune.events import Notice, OnEvent, Report, Started, Unit, ignore
from papertune.extract import stage as extraction
from papertune.extract.discover import SUFFIXES, discover
from papertune.files import make_folder, sha256_of
from papertune.manifest import Manifest, key_of
from papertune.prompts import SENTENCE
from papertune.records import Document
from papertune.sampling import Sampling
from papertune.training_text import pages_in_words
from papertune.write.guard import Guard
from papertune.write.section import Section
from papertune.writers import Writer, open_writer, weights_of

CODE_VERSION = 1
"""Raised when this command would ask the model something else about the same paper."""

Answer = tuple[str, str, Reading | None]  # heading, text, what was read for it if not the notes on the whole paper
PARTS = ("Summary", "Methods", "Findings", "Limitations", "Open questions")
_NOTE, _PART, _ANSWER, _THEMES = 60, 120, 90, 200  # words asked for
_HEAD = 64  # tokens of the window for title and headings


def run(config: AnalyzeConfig, *, on_event: OnEvent = ignore) -> Report:
    """Raises BadValue, FolderMissing, NoInputFiles, NothingExtracted, OllamaUnavailable, BadGguf, MissingLibrary, Busy, DiskFull …"""
    questions = _questions(config.questions)
    say = lambda text: on_event(Notice(text, "warning"))  # noqa: E731
    with open_writer(
        gguf=config.gguf, model=config.model, host=config.host, context=config.context, timeout=config.timeout, threads=config.threads, say=say
    ) as writer:
        papers = _read(config, on_event)
        header = {"step": "analyze", "code": CODE_VERSION, "papers": [paper.document.source for paper in papers]}
        with Manifest(config.output / ".resume.json", header) as journal:
            report = _Analysis(config, papers, questions, writer, journal, on_event).write()
    report.next_command = _next(report.written[0])
    return report


def _next(written: Path) -> str:
    """To look for copies, where there is training data; the scripts of the four steps leave it in their own folder, this one runs above it."""
    usual = CheckConfig().against
    for against in (usual, "finetune" / usual):
        if against.is_file():
            flag = f" --against {against}" if against != usual else ""
            return f"papertune check {shlex.quote(str(written))}{flag}"
    return ""


def _questions(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadValue(f"--questions {path} cannot be read: {error}.", "Name a text file with one question a line.") from error


def _read(config: AnalyzeConfig, on_event: OnEvent) -> list[Paper]:
    """The papers named, extracted into ``.text`` in the output folder, in the order of their files."""
    folders = [_folder_of(path, config.output) for path in config.paper]
    extracted = config.output / ".text"
    extraction.run(ExtractConfig(input_dir=tuple(folders), output_dir=extracted, device="cpu", engine="fast"), on_event=on_event)
    wanted = {sha256_of(found.path): i for i, found in reversed(list(enumerate(discover(folders, lambda _: None)))) if not found.problem}
    documents = [Document.from_json(path.read_text(encoding="utf-8")) for path in extracted.rglob("*.blocks.json")]
    chosen = {wanted[document.sha256]: document for document in documents if document.sha256 in wanted}
    unread = len(wanted) - len(chosen)
    if unread:
        on_event(Notice(f"{unread} of {len(wanted)} files gave no text; the reasons stand in {extracted / 'extract.log'}.", "warning"))
    return [Paper(chosen[i]) for i in sorted(chosen)]


def _folder_of(path: Path, output: Path) -> Path:
    """The folder itself, or one that holds nothing but this file: extraction reads folders."""
    if path.is_dir():
        return path
    if not path.is_file():
        raise FolderMissing(f"There is no file or folder {path}.", "Name PDF or EPUB files, or folders of them.")
    if path.suffix.lower() not in SUFFIXES:
        raise NoInputFiles(f"{path} is neither PDF nor EPUB.", "Name PDF or EPUB files, or folders of them.")
    alone = output / ".papers" / sha256(str(path.resolve()).encode()).hexdigest()[:12]
    shutil.rmtree(alone, ignore_errors=True)
    make_folder(alone)
    try:
        link(path, alone / path.name)
    except OSError:  # another disk, or a file system without links
        try:
            shutil.copy2(path, alone / path.name)
        except OSError as error:
            raise from_os_error(error, alone) from error
    return alone


@dataclass
class _Analysis:
    """All papers, answer by answer."""

    config: AnalyzeConfig
    papers: list[Paper]
    questions: list[str]
    writer: Writer
    journal: Manifest
    on_event: OnEvent
    done: int = 0
    lenient: bool = False
    weights: str = ""  # what tells the model from one that had its name before

    def __post_init__(self) -> None:
        self.weights = weights_of(gguf=self.config.gguf, model=self.config.model, host=self.config.host)
        self.lenient = any(item.get("lenient") for item in self.journal.items.values())

    def write(self) -> Report:
        report = Report("analyze")
        room = self.writer.context - _HEAD - max(_THEMES, _PART) * 3
        readings = [paper.readings(max(128, room), self.writer.count) for paper in self.papers]
        parts = len(PARTS) + len(self.questions)
        self.on_event(Started("Reading", sum(map(len, readings)) + parts * len(self.papers) + (len(self.papers) > 1), "answers"))
        summaries = []
        shelf = Shelf(self.config.output, self.journal, self.on_event)
        for paper, of_paper in zip(self.papers, readings, strict=True):
            before = len(self.journal.items)
            notes = [self._ask(paper, [(r.heading, r.text)], "Summary of this section", _NOTE, r.heading) for r in of_paper]
            gist = [("Notes", "\n\n".join(f"{r.heading}: {note}" for r, note in zip(of_paper, notes, strict=True)))]
            answers: list[Answer] = [(part, self._ask(paper, gist, part, _PART, part), None) for part in PARTS]
            for question in self.questions:
                reading = paper.about(question, max(128, room), self.writer.count)
                answers.append((question, self._ask(paper, [("From the paper", reading.text)], question, _ANSWER, question), reading))
            summaries.append((paper, answers[0][1]))
            report.states["ok" if len(self.journal.items) > before else "fresh"] += 1
            source = paper.document.source
            page = _page(paper, of_paper, notes, answers, self._model())
            report.written.append(shelf.put(source.rpartition("/")[2].rpartition(".")[0], paper.document.sha256, source, page))
        if len(self.papers) > 1:
            text = self._common(summaries)
            page = _themes_page(self.papers, text, themes(self.papers), self._model())
            report.written.append(shelf.put(THEMES, THEMES, "all papers", page))
        report.fresh = not report.states["ok"]
        report.summary = [("papers", str(len(self.papers))), ("answers", str(self.done))]
        return report

    def _common(self, summaries: Sequence[tuple[Paper, str]]) -> str:
        whole = Paper(Document("all papers", "", "", 0, ()), title="Common themes of these papers")
        return self._ask(whole, [("Summaries", "\n\n".join(f"{p.title}: {text}" for p, text in summaries))], "Related themes", _THEMES, "themes")

    def _ask(self, paper: Paper, before: Sequence[tuple[str, str]], heading: str, words: int, label: str) -> str:
        """What the model writes under ``heading`` after what stands ``before``; from the journal if it was asked before."""
        settings = {"model": str(self.config.gguf or self.config.model), "context": self.writer.context, "words": words, "seed": self.config.seed}
        settings |= {"temperature": self.config.temperature, "weights": self.weights}
        key = key_of(repr((paper.title, list(before), heading)), settings, CODE_VERSION)
        if key not in self.journal.items:
            guard = Guard()
            guard.lenient = self.lenient
            section = Section(paper.title, before, heading, words, 0, guard, lambda _: None)
            text = section.write(self.writer, Sampling(temperature=self.config.temperature, seed=self.config.seed))
            self.journal.record(key, paper=paper.document.source, heading=heading, text=text, lenient=guard.lenient)
            if guard.lenient and not self.lenient:
                self.on_event(Notice("The model writes little that is prose; from here on it is taken as it comes.", "warning"))
            self.lenient = guard.lenient
        self.done += 1
        self.on_event(Unit(self.done, f"{paper.title}: {label}"))
        return str(self.journal.items[key]["text"])

    def _model(self) -> str:
        return self.config.gguf.name if self.config.gguf else self.config.model


def _page(paper: Paper, readings: Iterable[Reading], notes: Iterable[str], answers: Sequence[Answer], model: str) -> str:
    document = paper.document
    pages = f", {document.pages} pages" if document.pages else ""
    lines = [f"# {paper.title}", f"{document.source}{pages}. Written by {model}: check before you use it. {_HOW}"]
    for heading, text, _ in answers[: len(PARTS)]:
        lines += [f"## {heading}", referenced(paper, text)]
    if answers[len(PARTS) :]:
        lines.append("## Questions")
        for question, text, reading in answers[len(PARTS) :]:
            read = f" *(read: {pages_in_words(reading.pages)})*" if reading and reading.pages else ""
            lines += [f"### {question}", referenced(paper, text) + read]
    lines.append("## Section by section")
    for reading, note in zip(readings, notes, strict=True):
        where = f" ({pages_in_words(reading.pages)})" if reading.pages else ""
        lines += [f"### {reading.heading}{where}", referenced(paper, note)]
    return "\n\n".join(lines) + "\n"


def _themes_page(papers: Sequence[Paper], text: str, found: Sequence[Theme], model: str) -> str:
    lines = ["# Related themes", f"{len(papers)} papers. The text is by {model}: check before you use it. The terms are counted.", "## In words"]
    lines += [text or _NOTHING, "## Terms that the papers share"]
    for theme in found:
        places = "; ".join(f"{papers[i].title}{_list_of(pages)}" for i, pages in theme.pages.items())
        lines.append(f"- **{theme.term}**: {places}")
    return "\n\n".join(lines if found else [*lines, "None stands out in more than one of them."]) + "\n"


def referenced(paper: Paper, text: str) -> str:
    """The text with the page after each sentence that some paragraph of the paper bears out."""
    if not text:
        return _NOTHING
    sentences = []
    for sentence in SENTENCE.split(text):
        pages: Pages | None = paper.page_of(sentence)
        sentences.append(f"{sentence} [{pages_in_words(pages)}]" if pages else sentence)
    return " ".join(sentences)


def _list_of(pages: Sequence[int]) -> str:
    return f" (page {', '.join(map(str, pages))})" if pages else ""


_NOTHING = "*The model wrote nothing usable here.*"
_HOW = "A page in brackets is where the paper shares most words with the sentence before it; a sentence without one has no such place."
