"""``make bench``: the benchmarks that need no GPU, one after the other; those of single steps append their rows to ``results.jsonl``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.corpus import TRUTH

PAPERS = TRUTH.parent

if __name__ == "__main__":
    runs = [["bench_export", "quantisers"]]
    with tempfile.TemporaryDirectory() as out:
        if TRUTH.is_dir():
            runs += [["bench_extract", str(PAPERS), out], ["bench_dataset", "speed"]]
        else:
            print(f"The papers are not at {PAPERS}: extraction and dataset are left out.")
        for name, *words in runs:
            print(f"── {name} ──", flush=True)
            subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py")), *words], check=True)
