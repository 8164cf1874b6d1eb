"""A folder whose files are all done already: what starting costs, and what one more finished file costs.

    python -m benchmarks.bench_known_files [--files 100000] [--failed]

Makes that many small files in folders of a thousand, their outputs and the manifest that knows them, and extracts them again in a process of its
own, which finds nothing to do: its time and its peak memory. Then the time of one record in a manifest with no items and in that one. With
``--failed`` three engines have given up each file but the first: no record gets longer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.results import record
from papertune.config import ExtractConfig
from papertune.events import ignore
from papertune.extract.discover import discover
from papertune.extract.engines import choose_engines
from papertune.extract.ledger import Ledger, settings_of
from papertune.manifest import Manifest

RECORDS = 1000
RUNS = 5


OK = {"state": "ok", "reason": "", "engine": "fast", "pages": 12, "chars": 34567, "failures": []}
FAILURES = [
    ["fast", "limit_memory", "used 2063 MiB, limit 2048 MiB"],
    ["pypdf", "damaged", "page 1: LimitReachedError: Reached maximum number of tokens per stream."],
    ["pdfplumber", "limit_time", "still running after 120 s"],
]
REASON = "; ".join(f"{engine}: {reason}" for engine, _, reason in FAILURES)
FAILED = {"state": "limit_memory", "reason": REASON, "engine": "", "pages": 0, "chars": 0, "failures": FAILURES}


def write_known(folder: Path, count: int, ended: Mapping[str, object]) -> None:
    """``count`` input files, outputs for each, and a manifest that says how all but the first ``ended``."""
    inputs, out = folder / "pdfs", folder / "out"
    out.mkdir()
    for number in range(count):
        if number % 1000 == 0:
            (inputs / f"{number // 1000:03d}").mkdir(parents=True)
        (inputs / f"{number // 1000:03d}" / f"{number:06d}.pdf").write_bytes(b"%%PDF-1.7 %06d" % number)
        (out / f"{number:06d}.txt").touch()
        (out / f"{number:06d}.blocks.json").touch()
    config = ExtractConfig(input_dir=(inputs,), output_dir=out, engine="fast")
    engines = choose_engines(config, ignore)
    files = discover([inputs], print)
    with Manifest(out / ".resume.json", {}) as manifest:
        ledger = Ledger(manifest, out, settings_of(config, engines))
    lines = []
    for number, file in enumerate(files):
        sha256 = hashlib.sha256(b"%%PDF-1.7 " + file.name[:6].encode()).hexdigest()
        item = {
            "key": f"../pdfs/{file.source}", "made": ledger.made(sha256), "sha256": sha256, "size": file.size, "mtime": file.mtime,
            **(ended if number else OK), "limits": [120.0, 2048], "output": file.name[:6],
        }  # fmt: skip
        lines.append(json.dumps(item))
    (out / ".resume.json").write_text('{"version": 1, "header": {}, "items": [\n' + ",\n".join(lines) + "\n]}\n")


def extract_again(folder: Path) -> tuple[float, float, float]:
    """Wall and processor seconds and peak MB of a process that finds all files done."""
    words = [sys.executable, "-m", "papertune", "extract", "--engine", "fast", "--input-dir", "pdfs", "--output-dir", "out"]
    begin = time.perf_counter()
    process = subprocess.Popen(words, cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    assert "nothing to do" in said, said
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def record_microseconds(manifest: Manifest) -> float:
    begin = time.perf_counter()
    for number in range(RECORDS):
        manifest.record(f"new-{number}", state="ok", reason="", made="0" * 97)
    return 1e6 * (time.perf_counter() - begin) / RECORDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--failed", action="store_true")
    parser.add_argument("--keep", type=Path, help="make the files here, or use those that are here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "out").exists():
            write_known(folder, args.files, FAILED if args.failed else OK)
        runs = [extract_again(folder) for _ in range(RUNS)]
        wall, processor, memory = (statistics.median(figures) for figures in zip(*runs, strict=True))
        with Manifest(folder / "few.json", {}) as few, Manifest(folder / "out" / ".resume.json", {}) as many:
            figures = record_microseconds(few), record_microseconds(many)
        row = {
            "files": args.files, "failed": args.failed, "runs": RUNS,
            "wall_s": round(wall, 2), "cpu_s": round(processor, 2), "peak_rss_mb": round(memory),
            "record_us_without_items": round(figures[0], 1), "record_us_with_all": round(figures[1], 1),
        }  # fmt: skip
        record("extract", {"kind": "known-files", **row})


if __name__ == "__main__":
    main()
