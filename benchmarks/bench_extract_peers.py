"""papertune and other tools with a permissive licence on the same published papers, in one go: the table of the README.

    python -m venv PEERS
    PEERS/bin/pip install pypdfium2 pdfplumber docling-parse kreuzberg opendataloader-pdf pdf_oxide
    python -m benchmarks.bench_extract_peers PAPERS OUT --peers PEERS/bin/python [--only NAME ...]

PAPERS holds ``pdf/``, ``truth/`` and ``score.py``; each tool's texts go to OUT/NAME. Every tool reads all papers in a process of its own, at its
default settings unless said below, and the process and its children are charged from start to end. A tool that is not installed is named and left
out. OpenDataLoader needs Java. ``papertune`` has learned from these papers: the row to compare is that with each publisher left out, from

    python -m benchmarks.train_labeller PAPERS --by-publisher --documents OUT/papertune-left-out

which is scored too, without a speed, where that folder is there.

Licences, as the packages state them: pypdfium2 BSD/Apache, pdfplumber MIT, docling-parse MIT, kreuzberg MIT, opendataloader-pdf Apache, pdf_oxide MIT
or Apache. PyMuPDF, pymupdf4llm and marker are AGPL or GPL, and not run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

OURS, LEFT_OUT = "papertune", "papertune-left-out"
COLUMNS = ("recall", "precision", "nid", "nid_full", "paragraphs", "heading_recall", "heading_precision", "junk", "artefacts")


def with_papertune(pdfs: Sequence[Path], out: Path) -> None:
    """The fast engine in this one process, and both of its files written."""
    from papertune.extract.backends.fast import Fast

    engine = Fast()
    for pdf in pdfs:
        document = engine.read(pdf)
        (out / f"{pdf.stem}.txt").write_text(document.running_text(), encoding="utf-8")
        (out / f"{pdf.stem}.blocks.json").write_text(document.to_json(), encoding="utf-8")


def with_pypdfium2(pdfs: Sequence[Path], out: Path) -> None:
    import pypdfium2

    def texts(pdf: Path) -> list[str]:
        return [page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(pdf)]

    _by_page(pdfs, out, texts)


def with_pdfplumber(pdfs: Sequence[Path], out: Path) -> None:
    import pdfplumber

    def texts(pdf: Path) -> list[str]:
        with pdfplumber.open(pdf) as document:
            return [page.extract_text() for page in document.pages]

    _by_page(pdfs, out, texts)


def with_docling_parse(pdfs: Sequence[Path], out: Path) -> None:
    """Line cells alone, which is 12 times faster than its default of everything."""
    from docling_core.types.doc.page import TextCellUnit
    from docling_parse.pdf_parser import ContentConfig, ContentLevel, DoclingPdfParser

    skip = ContentLevel.SKIP
    lines = ContentConfig(
        char_cells_content_level=ContentLevel.COMPUTE, word_cells_content_level=skip, shapes_content_level=skip, bitmaps_content_level=skip
    )

    def texts(pdf: Path) -> list[str]:
        pages = DoclingPdfParser().load(pdf, content_config=lines).iterate_pages()
        return ["\n".join(cell.text for cell in page.iterate_cells(TextCellUnit.LINE)) for _, page in pages]

    _by_page(pdfs, out, texts)


def with_kreuzberg(pdfs: Sequence[Path], out: Path) -> None:
    """As Markdown."""
    from kreuzberg import ExtractionConfig, extract_file_sync

    settings = ExtractionConfig(output_format="markdown", use_cache=False)
    for pdf in pdfs:
        (out / f"{pdf.stem}.md").write_text(extract_file_sync(str(pdf), config=settings).content, encoding="utf-8")


def with_opendataloader_pdf(pdfs: Sequence[Path], out: Path) -> None:
    """As Markdown, all papers in one call."""
    import opendataloader_pdf

    opendataloader_pdf.convert([str(pdf) for pdf in pdfs], output_dir=str(out), format="markdown", image_output="off", quiet=True)


def with_pdf_oxide(pdfs: Sequence[Path], out: Path) -> None:
    """As Markdown."""
    from pdf_oxide import PdfDocument

    def texts(pdf: Path) -> list[str]:
        document = PdfDocument(str(pdf))
        return [document.to_markdown(index) for index in range(document.page_count())]

    _by_page(pdfs, out, texts)


def _by_page(pdfs: Sequence[Path], out: Path, texts: Callable[[Path], list[str]]) -> None:
    for pdf in pdfs:
        (out / f"{pdf.stem}.txt").write_text("\n\n".join(texts(pdf)), encoding="utf-8", errors="replace")


TOOLS: dict[str, Callable[[Sequence[Path], Path], None]] = {
    OURS: with_papertune, "pypdfium2": with_pypdfium2, "docling-parse": with_docling_parse, "kreuzberg": with_kreuzberg,
    "opendataloader-pdf": with_opendataloader_pdf, "pdf_oxide": with_pdf_oxide, "pdfplumber": with_pdfplumber,
}  # fmt: skip


def extract(name: str, papers: Path, out: Path, python: str) -> tuple[str, float] | None:
    """Runs the tool in a process of its own: its version and the processor seconds it took; None when it is not installed."""
    words = [python, __file__, str(papers), str(out), "--as", name]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path) * (name == OURS)})
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        print(f"{name} did not run: {said.strip() or f'exit status {process.returncode}'}")
        return None
    return json.loads(said.splitlines()[-1])["version"], used.ru_utime + used.ru_stime


def scores(papers: Path, out: Path) -> dict[str, float]:
    """Means over the papers."""
    kept = out.parent / f"{out.name}.json"
    command = [sys.executable, str(papers / "score.py"), str(out), "--truth", str(papers / "truth"), "--json", str(kept)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = json.loads(kept.read_text(encoding="utf-8")).values()
    return {column: statistics.mean(row[column] for row in rows) for column in COLUMNS}


def run_tool(name: str, papers: Path, out: Path) -> None:
    """In the tool's own process."""
    module = name.replace("-", "_")
    try:
        importlib.import_module(module)
    except ImportError as error:
        print(f"not installed ({error})")
        sys.exit(1)
    out.mkdir(parents=True, exist_ok=True)
    TOOLS[name](sorted((papers / "pdf").glob("*.pdf")), out)
    print(json.dumps({"version": version(name)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--peers", default=sys.executable, help="the Python of an environment that has the other tools")
    parser.add_argument("--only", nargs="+", choices=TOOLS, default=list(TOOLS), metavar="NAME")
    parser.add_argument("--as", dest="name", choices=TOOLS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.name:
        run_tool(args.name, args.papers, args.out)
        return
    import pypdfium2

    from benchmarks.results import record

    papers = len(list((args.papers / "truth").glob("*.json")))
    pages = sum(len(pypdfium2.PdfDocument(pdf)) for pdf in (args.papers / "pdf").glob("*.pdf"))
    print(f"| tool | {' | '.join(COLUMNS)} | pages / CPU-s |\n|{'---|' * (len(COLUMNS) + 2)}")
    runs = [(name, extract(name, args.papers, args.out / name, sys.executable if name == OURS else args.peers)) for name in args.only]
    rows = [(name, f"{name} {made[0]}", f"{pages / made[1]:.1f}") for name, made in runs if made]
    if (args.out / LEFT_OUT).is_dir():
        rows.insert(0, (LEFT_OUT, f"{OURS}, publisher left out", "-"))
    for name, title, speed in rows:
        figures = scores(args.papers, args.out / name)
        cells = [f"{figures[column]:.{1 if column == 'artefacts' else 3}f}" for column in COLUMNS]
        print(f"| {title} | {' | '.join(cells)} | {speed} |", flush=True)
        rounded = {column: round(figure, 4) for column, figure in figures.items()}
        row = {"kind": "peers", "tool": title, "papers": papers, "pages": pages, **rounded, "pages_per_cpu_s": speed}
        record("extract", row, quiet=True)


if __name__ == "__main__":
    main()
