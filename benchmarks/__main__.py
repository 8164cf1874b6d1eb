"""``make bench``: the benchmarks that need no GPU, one after the other; each appends its rows to ``results.jsonl``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RUNS = (("bench_extract.py",), ("bench_dataset.py",), ("bench_export.py", "quantisers"))

if __name__ == "__main__":
    for name, *words in RUNS:
        print(f"── {name} ──", flush=True)
        subprocess.run([sys.executable, str(HERE / name), *words], check=True)
