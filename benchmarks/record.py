"""A row for ``results.jsonl``: what was measured, on which commit, machine and versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.jsonl")


def record(bench: str, row: dict[str, Any], *packages: str) -> None:
    """Appends and prints it; versions are those of ``packages``."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False).stdout.strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {name: version(name) for name in packages}
    line = {"bench": bench, "commit": commit, "machine": f"{platform.machine()}, {cores} cores", "versions": versions, **row}
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line, indent=1), flush=True)
