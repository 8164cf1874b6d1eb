"""``make bench``: the benchmarks that need no GPU, one after the other; those of single steps append their rows to ``results.jsonl``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.corpus import TRUTH

PAPERS = TRUTH.parent
HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    runs = [["bench_export", "quantisers"], ["bench_known_files"], ["bench_hostile"]]
    with tempfile.TemporaryDirectory() as out:
        if TRUTH.is_dir():
            runs += [["bench_extract", str(PAPERS), out], ["bench_extract", str(PAPERS), out, "--whole-runs", "5"], ["bench_dataset", "speed"]]
        else:
            print(f"The papers are not at {PAPERS}: extraction and dataset are left out.")
        for name, *words in runs:
            print(f"── {name} ──", flush=True)
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parent / "src")])}
            subprocess.run([sys.executable, str(HERE / f"{name}.py"), *words], check=True, env=environment)
