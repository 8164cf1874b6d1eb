"""How long files made to break readers hold up a run: wall time beside the limits that were hit.

    python -m benchmarks.bench_hostile [--timeout 20] [--workers 2]

Extracts the corpus of ``tests/hostile.py``, files whose reader crashes, hangs or eats memory, and odd names, in one run. A limit that is hit cannot
be had back, but two workers share the waiting: wall time may be (sum of limits hit) / workers + 10 %, beside what the readable files take. Both
sums are of the attempts' own times, as ``extract.log`` has them.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from pathlib import Path

from benchmarks.results import record
from papertune.config import ExtractConfig
from papertune.extract import backend
from papertune.extract.stage import run
from papertune.manifest import read_manifest
from tests import hostile
from tests.misbehaving import MAKER, bad_paper

MISBEHAVIOUR = ("segfault", "abort", "kill", "exit-silently", "hang", "ignore-sigterm", "eat-memory", "raise")
COPIES = 4
"""Files of each: with few limits in all, the last one alone, in one worker while the other has nothing left to do, is more than a tenth of them."""

_ATTEMPT = re.compile(r" (?P<failed>\w+ failed, (?P<state>\w+): .*\()?(?P<seconds>\d+\.\d\d) s\)?(?:: .*)?$", re.M)


def write_files(folder: Path) -> None:
    hostile.write_corpus(folder)
    for number, how in enumerate(MISBEHAVIOUR):
        for copy in range(COPIES):
            (folder / f"{how}-{copy}.pdf").write_bytes(bad_paper(how, 1000 + COPIES * number + copy))
    for name, data in hostile.ODD_NAMES.items():
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds a file may take with one backend")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    backend.BACKENDS["fast"] = MAKER
    with tempfile.TemporaryDirectory() as folder:
        files, out = Path(folder, "files"), Path(folder, "out")
        write_files(files)
        settings = ExtractConfig(
            input_dir=(files,), output_dir=out, engine="fast", ocr="off", workers=args.workers, timeout=args.timeout, memory_limit=1024
        )
        begin = time.monotonic()
        report = run(settings)
        wall = time.monotonic() - begin
        log = "".join(line for line in (out / "extract.log").read_text().splitlines(keepends=True) if " by none, " not in line)  # told already
        attempts = [(match["state"] or "", float(match["seconds"])) for match in _ATTEMPT.finditer(log)]
        ended = len(read_manifest(out / ".resume.json")[1])
    deaths = sum(state in ("crash", "limit_time", "limit_memory") for state, _ in attempts)
    limits = [seconds for state, seconds in attempts if state.startswith("limit_")]
    others = sum(seconds for state, seconds in attempts if not state.startswith("limit_"))
    row = {
        "files": ended, "workers": args.workers, "timeout_s": args.timeout, "states": dict(report.states), "limits_hit": len(limits),
        "limits_s": round(sum(limits), 1), "other_attempts_s": round(others, 1), "wall_s": round(wall, 1), "deaths": deaths,
    }  # fmt: skip
    record("extract", {"kind": "hostile", **row})
    print(f"limits hit, by the workers, + 10 %: {1.1 * sum(limits) / args.workers:.1f} s; wall less the others: {wall - others / args.workers:.1f} s")


if __name__ == "__main__":
    main()
