"""A long article on a title: an outline, then section by section, each sentence into a Markdown file as it comes.

The journal beside the file (``.NAME.md.resume.json``) holds the outline and every finished section. A run that was killed writes the file
anew from it and goes on with the section it was at, which comes out as it would have: draws depend on the seed and the section alone.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from papertune.base import open_base
from papertune.config import WriteConfig
from papertune.errors import BadValue, CannotWrite, SettingsChanged
from papertune.events import Notice, OnEvent, Report, Started, Unit, ignore
from papertune.files import make_folder
from papertune.manifest import Manifest, read_manifest
from papertune.prompts import SENTENCE
from papertune.repetition import rep
from papertune.sampling import Sampling
from papertune.tokenizer import open_tokenizer
from papertune.write.draft import Draft
from papertune.write.guard import Guard
from papertune.write.outline import USUAL, ask, clean, read_outline
from papertune.write.section import Section
from papertune.writers import Writer, open_writer, weights_of

_NO_EFFECT = ("output", "host", "timeout", "against", "text_dir", "threads", "outline")  # settings that do not change what is written
_SHOWN = 5  # copies told of at the end


def run(config: WriteConfig, *, on_event: OnEvent = ignore) -> Report:
    """Raises BadValue, SettingsChanged, CannotWrite, DiskFull, Busy, OllamaUnavailable, BadGguf, MissingLibrary or OutOfMemory."""
    if not config.title.strip():
        raise BadValue("There is no title to write about.", 'Run: papertune write "A TITLE"')
    output = config.output or Path(f"{_file_name(config.title)}.md")
    given = clean(config.sections) or (read_outline(config.outline) if config.outline else ())
    settings = _settings(config, given)
    make_folder(output.parent)
    with Manifest(_journal(output, settings), {"step": "write", "settings": settings}) as journal:
        article = _Article(config, output, journal, on_event)
        article.finish(given)
    report = Report("write", written=[output], states=article.states, fresh=article.fresh)
    report.summary = [
        ("sections", str(len(article.sections))),
        ("words", f"{article.words:,} of {config.words:,} asked"),
        ("repeated", f"{rep(article.text, 4):.1%} of the runs of four words"),
        *_copies(config, article.text, on_event),
    ]
    report.next_command = f"papertune check {shlex.quote(str(output))}"
    return report


def _settings(config: WriteConfig, given: tuple[str, ...]) -> dict[str, Any]:
    settings = {name: value for name, value in asdict(config).items() if name not in _NO_EFFECT}
    if config.gguf:
        settings["model"] = str(config.gguf.resolve())
    settings["gguf"] = config.gguf is not None
    settings["sections"] = list(given)
    settings["weights"] = weights_of(gguf=config.gguf, model=config.model, host=config.host)
    return settings


def _journal(output: Path, settings: dict[str, Any]) -> Path:
    """Where the journal is. Raises SettingsChanged or CannotWrite rather than write over another article or a file of the user's."""
    path = output.with_name(f".{output.name}.resume.json")
    header, items = read_manifest(path)
    if not items:  # nothing was written: a first run that found no server, say
        header = {}
    before = {"weights": "", **header.get("settings", {})}
    settings["weights"] = settings["weights"] or before["weights"]  # a finished article needs no server
    before["weights"] = before["weights"] or settings["weights"]
    if header and before != settings:
        changed = ", ".join(sorted(key for key in settings if key != "weights" and settings[key] != before.get(key)))
        if not changed:
            what = f"{output} was begun by another model than {settings['model']} is now."
            raise SettingsChanged(what, "Bring that model back to go on, or name another file with --output.")
        raise SettingsChanged(f"{output} was begun with another {changed}.", "Use the same settings to go on, or name another file with --output.")
    if not header and output.exists():
        raise CannotWrite(f"{output} exists and was not written by this command.", "Name another file with --output.")
    return path


class _Article:
    """The article: finished sections from the journal, the others written now."""

    def __init__(self, config: WriteConfig, output: Path, journal: Manifest, on_event: OnEvent) -> None:
        self._config, self._output, self._journal, self._on_event = config, output, journal, on_event
        self.sections: list[tuple[str, str]] = []
        self.states: Counter[str] = Counter()
        self.fresh = False
        self._draft = Draft(output, journal, on_event)

    @property
    def text(self) -> str:
        return "".join([f"# {self._config.title}\n", *(f"\n## {heading}\n\n{text}\n" for heading, text in self.sections)])

    @property
    def words(self) -> int:
        return sum(len(text.split()) for _, text in self.sections)

    def finish(self, given: tuple[str, ...]) -> None:
        headings = self._journal.items.get("outline", {}).get("headings")
        if headings and all(_key(i) in self._journal.items for i in range(len(headings))):
            self._resume(headings)
            self.fresh = True
            self.states["fresh"] = len(headings)
            if not self._output.exists():
                self._draft.write(self.text)
            return
        config = self._config
        say = lambda text: self._on_event(Notice(text, "warning"))  # noqa: E731
        with open_writer(
            gguf=config.gguf, model=config.model, host=config.host, context=config.context, timeout=config.timeout, threads=config.threads, say=say
        ) as writer:
            headings = headings or self._outline(given, writer)
            self._resume(headings)
            self._write(headings, writer)

    def _outline(self, given: tuple[str, ...], writer: Writer) -> list[str]:
        headings = given or ask(writer, self._config.title, Sampling(temperature=self._config.temperature, seed=self._config.seed))
        if headings is None:
            self._on_event(Notice("The model offers no usable outline; the usual sections of a paper are taken."))
            headings = USUAL
        self._journal.record("outline", headings=list(headings))
        return list(headings)

    def _resume(self, headings: list[str]) -> None:
        """The sections that are finished, up to the first that is not."""
        for i, heading in enumerate(headings):
            item = self._journal.items.get(_key(i))
            if item is None:
                return
            self.sections.append((heading, item["text"]))

    def _write(self, headings: list[str], writer: Writer) -> None:
        first = len(self.sections)
        target = max(1, round(self._config.words / len(headings)))
        guard = Guard()
        for i, (_, text) in enumerate(self.sections):
            guard.lenient = self._journal.items[_key(i)]["lenient"]
            for sentence in SENTENCE.split(text):
                guard.keep(sentence)
        sampling = Sampling(temperature=self._config.temperature, seed=self._config.seed)
        strict = not guard.lenient
        self._on_event(Started(f"Writing {self._output}", len(headings), "sections", first))
        self._draft.write(self.text)
        with self._draft.appending():
            for i in range(first, len(headings)):
                self._draft.put(f"\n## {headings[i]}\n\n")
                section = Section(self._config.title, tuple(self.sections), headings[i], target, i, guard, self._draft.put)
                text = section.write(writer, sampling)
                self._draft.put("\n")
                self._journal.record(_key(i), heading=headings[i], text=text, lenient=guard.lenient)
                self.sections.append((headings[i], text))
                self.states["ok" if text else "empty"] += 1
                if section.troubles:
                    self._on_event(Notice(f"{headings[i]}: of the sentences left out {section.troubles}."))
                if strict and guard.lenient:
                    strict = False
                    self._on_event(Notice("The model writes little that is prose; from here on it is taken as it comes.", "warning"))
                self._on_event(Unit(i + 1, headings[i], {"words": str(self.words)}))
        self._draft.write(self.text)  # the same words, without spaces at the ends of sections
        if first:
            self.states["fresh"] = first


def _key(section: int) -> str:
    return f"section {section}"


def _copies(config: WriteConfig, text: str, on_event: OnEvent) -> list[tuple[str, str]]:
    """The article compared with the training text, as summary lines."""
    if not config.against.exists():
        on_event(Notice(f"{config.against} is not here, so copies from the training papers were not looked for."))
        return []
    from papertune.training_text import LEAST_TOKENS, TrainingText

    tokenizer = open_tokenizer(open_base("tiny").folder)  # Mistral's: sizes of copies are told in its tokens
    comparison = TrainingText(config.against, config.text_dir).compare(text, lambda words: len(tokenizer.encode(words)))
    lines = [("copied", f"{comparison.share:.1%} in {len(comparison.long)} copies of {LEAST_TOKENS} tokens or more; longest {comparison.longest}")]
    return lines + [(f"  {found.tokens} tokens", f"{found.place}: “{' '.join(found.text.split())[:200]}”") for found in comparison.long[:_SHOWN]]


def _file_name(title: str) -> str:
    """The title as a file name: lower-case letters and digits with dashes between words."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))[:80].strip("-") or "article"
