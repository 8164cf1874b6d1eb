"""One text file, with the sidecar of extraction where there is one, to a ``Paper``: title, headings and paragraphs with their places.

Reads what extraction writes (light Markdown, one paragraph a line) and a person's own ``.txt`` and ``.md`` (wrapped lines, no title).
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from papertune.dataset.outputs import CARD, MANIFEST
from papertune.errors import FolderMissing, FolderUnreadable, NoInputFiles
from papertune.files import encoding_of
from papertune.folders import walk
from papertune.records import RUNNING, Document, markdown

SUFFIXES = (".txt", ".md")
SIDECAR = ".blocks.json"

Pages = tuple[int, int]


@dataclass(slots=True)
class Block:
    """A paragraph (``level`` 0) or heading (1 for a section, 2 for a subsection …).

    ``start`` and ``end`` are characters of the file's text. ``text`` is that slice, except where wrapped lines were joined or the marks of
    a heading taken off. ``pages`` are the first and last page it stands on, None when unknown.
    """

    text: str
    start: int
    end: int
    level: int = 0
    pages: Pages | None = None


@dataclass(slots=True)
class Paper:
    """One input file. ``source`` and ``sha256`` name the PDF or EPUB it came from when a sidecar tells, else the file itself."""

    name: str
    source: str
    sha256: str
    text: str
    title: str = ""
    blocks: list[Block] = field(default_factory=list)


def find_papers(folder: Path, output_dir: Path, warn: Callable[[str], None]) -> list[Path]:
    """The text files under ``folder`` in a fixed order, without hidden ones, those under ``output_dir`` and what was written about a dataset.

    Links to folders are followed, each folder once. Subfolders that cannot be listed are told to ``warn``. Raises FolderMissing,
    FolderUnreadable or NoInputFiles.
    """
    if not folder.is_dir():
        raise FolderMissing(f"--input-dir {folder}: there is no such folder.", "Run extract_text.py first, or name the folder with your text files.")
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise FolderUnreadable(f"--input-dir {folder} cannot be read: {error.strerror}.", "Check the folder's permissions.") from error
    output = output_dir.resolve()
    within = folder.resolve() in output.parents
    found = [Path(place, entry.name) for place, _, entry in walk(folder, set(), warn, hidden=False)]
    found = [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]
    found = [path for path in found if not (path.name == CARD and path.with_name(MANIFEST).is_file())]
    kept = [path for path in found if not (within and output in path.resolve().parents)]
    if not kept:
        raise NoInputFiles(f"--input-dir {folder} holds no .txt or .md file.", "Run extract_text.py first, or name the folder with your text files.")
    return sorted(kept, key=lambda path: path.relative_to(folder).as_posix())


def sidecar_of(path: Path) -> Path:
    return path.with_name(path.stem + SIDECAR)


def read_paper(path: Path, folder: Path) -> Paper:
    """The paper in this file; its name is the path under ``folder`` without suffix. Raises FolderUnreadable when it cannot be read."""
    try:
        raw = path.read_bytes()
        sidecar = sidecar_of(path).read_text(encoding="utf-8") if sidecar_of(path).is_file() else ""
    except OSError as error:
        raise FolderUnreadable(f"{path} cannot be read: {error.strerror}.", "Check the file's permissions.") from error
    text = _decode(raw).replace("\r\n", "\n").replace("\r", "\n")
    relative = path.relative_to(folder)
    name = relative.with_suffix("").as_posix() if path.suffix.lower() == ".txt" else relative.as_posix()
    paper = Paper(name, relative.as_posix(), hashlib.sha256(raw).hexdigest(), text)
    paper.title, paper.blocks = parse(text)
    if sidecar:
        _add_sidecar(paper, sidecar)
    return paper


def _decode(raw: bytes) -> str:
    """UTF-8 with or without mark, or UTF-16 with one, as Windows' editor has it; text of older programs is taken as Windows-1252, which cannot fail
    but may hold marks of damage."""
    encoding = encoding_of(raw)
    try:
        return raw.decode(encoding, errors="strict" if encoding == "utf-8-sig" else "replace")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


_BREAK = re.compile(r"\n[ \t]*\n\s*|\n(?=#{1,6}[ \t])")  # a heading ends a paragraph without a blank line: CommonMark 0.31, 4.2
_HEADING = re.compile(r"(#{1,6})[ \t]+(.*?)[ \t#]*(?:\n|$)")
_WRAP = re.compile(r"\s*\n\s*")


def parse(text: str) -> tuple[str, list[Block]]:
    """Title and blocks of a text in light Markdown. The first ``# `` heading before any paragraph is the title."""
    title = ""
    blocks: list[Block] = []
    behind = 0
    gaps = [match.span() for match in _BREAK.finditer(text)]
    for gap in [*gaps, (len(text), len(text))]:
        start, end, behind = behind, *gap
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[start] == "#" and (heading := _HEADING.match(text, start, end)):
            level, words = len(heading[1]), heading[2].strip()
            if level == 1 and not title and not blocks:
                title = words
            elif words:
                blocks.append(Block(words, start, heading.end(2), max(1, level - 1)))
            start = heading.end()
        if start < end:
            raw = text[start:end].rstrip()
            blocks.append(Block(_WRAP.sub(" ", raw) if "\n" in raw else raw, start, start + len(raw)))
    return title, blocks


def _add_sidecar(paper: Paper, sidecar: str) -> None:
    """Source and pages from the sidecar. A paragraph that was edited since finds no equal there and stays without pages."""
    try:
        document = Document.from_json(sidecar)
    except (ValueError, KeyError, TypeError):
        return  # not a sidecar of ours: the text alone is enough
    paper.source, paper.sha256 = document.source, document.sha256
    pages: defaultdict[str, deque[Pages]] = defaultdict(deque)
    for block in document.blocks:
        if block.kind in RUNNING and block.places:
            numbers = [place.page for place in block.places]
            pages[markdown(block).lstrip("#").lstrip()].append((min(numbers), max(numbers)))
    for part in paper.blocks:
        if waiting := pages.get(part.text):
            part.pages = waiting.popleft()
