"""Typesets the demo's papers: PDF with Typst, EPUB with the standard library. The same bytes every time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from papertune.demo.epub import epub_of
from papertune.demo.source import PAPERS, Paper, papers
from papertune.errors import MissingLibrary
from papertune.files import make_folder, writing

TIMESTAMP = 1_767_225_600  # 2026-01-01: the creation date in every PDF


def write_papers(folder: Path) -> list[Path]:
    """Writes every paper as ``folder/NAME.pdf`` or ``folder/NAME.epub``. Raises MissingLibrary, CannotWrite or DiskFull."""
    make_folder(folder)
    written = []
    for paper in papers():
        path = folder / f"{paper.name}.{paper.format}"
        content = pdf_of(paper) if paper.format == "pdf" else epub_of(paper)
        with writing(path) as file:
            file.write(content)
        written.append(path)
    return written


def pdf_of(paper: Paper) -> bytes:
    """The paper as a PDF, in the fonts that Typst brings along. Raises MissingLibrary."""
    try:
        import typst
    except ImportError as error:
        raise MissingLibrary("typst is not installed; it typesets the demo's papers.", 'Run: pip install "papertune[demo]"') from error
    compiler = typst.Compiler(
        (PAPERS / "template.typ").read_bytes(),
        ignore_system_fonts=True,
        sys_inputs={"paper": json.dumps(asdict(paper), ensure_ascii=False)},
    )
    content = compiler.compile(format="pdf", timestamp=TIMESTAMP)
    assert isinstance(content, bytes)
    return content
