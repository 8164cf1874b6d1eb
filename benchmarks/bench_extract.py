"""The fast engine on published papers: speed on one core, memory, and the scores of PAPERS/score.py.

    python -m benchmarks.bench_extract PAPERS OUT [--whole-runs 5]

PAPERS holds ``pdf/``, ``truth/`` and ``score.py``. OUT receives each paper's text and blocks; the time is from opening the PDF to the written
files, in processor seconds of this process. The last figure is scored on the sidecar: running text, back matter and references together.

``--whole-runs`` measures the command as it is typed instead, from its start to its end and all its processes: with one worker and with two in
turn, and beside them pdfium's bare text in one process, whose speed tells the machine's at that time. Medians go to ``results.jsonl``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import record
from papertune.extract.backends.fast import Fast
from papertune.records import Document

SCORED = ("title", "heading", "paragraph", "back", "reference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--whole-runs", type=int, default=0, metavar="NUMBER")
    args = parser.parse_args()
    if args.whole_runs:
        whole_runs(args.papers / "pdf", args.whole_runs)
        return
    args.out.mkdir(parents=True, exist_ok=True)

    engine, pages = Fast(), 0
    began = time.process_time()
    for path in sorted((args.papers / "pdf").glob("*.pdf")):
        document = engine.read(path)
        (args.out / f"{path.stem}.txt").write_text(document.running_text(), encoding="utf-8")
        (args.out / f"{path.stem}.blocks.json").write_text(document.to_json(), encoding="utf-8")
        pages += document.pages
    seconds = time.process_time() - began
    print(f"{pages} pages in {seconds:.1f} processor seconds: {pages / seconds:.1f} pages/s on one core")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")

    subprocess.run([sys.executable, args.papers / "score.py", args.out, "--truth", args.papers / "truth"], check=True)
    print(f"sidecar nid_full   mean {statistics.mean(sidecar_scores(args.papers, args.out)):.3f}")


def whole_runs(pdfs: Path, runs: int) -> None:
    import pypdfium2

    pages = sum(len(pypdfium2.PdfDocument(pdf)) for pdf in pdfs.glob("*.pdf"))
    bare = f"import pathlib, pypdfium2\nfor p in pathlib.Path({str(pdfs)!r}).glob('*.pdf'):\n for page in pypdfium2.PdfDocument(p):\n  "
    bare += "page.get_textpage().get_text_range()"
    found: dict[str, list[tuple[float, float, float]]] = {"bare": [], "1": [], "2": []}
    for _ in range(runs):
        found["bare"].append(timed([sys.executable, "-c", bare]))
        for workers in ("1", "2"):
            with tempfile.TemporaryDirectory() as out:
                words = ["-m", "papertune", "extract", "--engine", "fast", "--input-dir", str(pdfs), "--output-dir", out, "--workers", workers]
                found[workers].append(timed([sys.executable, *words]))
    medians = {name: [statistics.median(figures) for figures in zip(*rows, strict=True)] for name, rows in found.items()}
    row = {
        "pages": pages, "runs": runs,
        "pages_per_s_1_worker": round(pages / medians["1"][0], 1), "pages_per_s_2_workers": round(pages / medians["2"][0], 1),
        "speedup": round(statistics.median(one[0] / two[0] for one, two in zip(found["1"], found["2"], strict=True)), 2),
        "cpu_s_1_worker": round(medians["1"][1], 2), "cpu_s_2_workers": round(medians["2"][1], 2),
        "pages_per_cpu_s": round(pages / medians["1"][1], 1), "bare_pdfium_pages_per_cpu_s": round(pages / medians["bare"][1], 1),
        "peak_rss_mb": round(max(row[2] for rows in (found["1"], found["2"]) for row in rows)),
    }  # fmt: skip
    record("extract", {"kind": "whole-runs", **row}, "pypdfium2", "numpy")


def timed(words: list[str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds of the process and its children, and the peak MB of the largest of them."""
    begin = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def sidecar_scores(papers: Path, out: Path) -> list[float]:
    spec = importlib.util.spec_from_file_location("score", papers / "score.py")
    assert spec
    assert spec.loader
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    found = []
    for path in sorted((papers / "truth").glob("*.json")):
        truth = json.loads(path.read_text(encoding="utf-8"))
        document = Document.from_json((out / f"{path.stem}.blocks.json").read_text(encoding="utf-8"))
        text = "\n\n".join(block.text for block in document.blocks if block.kind in SCORED)
        found.append(score.score(truth, text)["nid_full"])
    return found


if __name__ == "__main__":
    main()
