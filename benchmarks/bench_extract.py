"""The fast engine on published papers: speed on one core, memory, and the scores of PAPERS/score.py.

    python -m benchmarks.bench_extract PAPERS OUT

PAPERS holds ``pdf/``, ``truth/`` and ``score.py``. OUT receives each paper's text and blocks; the time is from opening the PDF to the written
files, in processor seconds of this process. The last figure is scored on the sidecar: running text, back matter and references together.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from papertune.extract.backends.fast import Fast
from papertune.records import Document

SCORED = ("title", "heading", "paragraph", "back", "reference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
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
