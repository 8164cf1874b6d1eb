"""Rows of ``results.jsonl`` beside this file: what was measured, on which commit and machine, with which versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from shutil import which
from typing import Any

RESULTS = Path(__file__).with_name("results.jsonl")


def commit() -> str:
    """Empty outside a checkout, and without git."""
    git = which("git")
    words = ["rev-parse", "--short", "HEAD"]
    return subprocess.run([git, *words], cwd=RESULTS.parent, capture_output=True, text=True, check=False).stdout.strip() if git else ""


def record(bench: str, row: Mapping[str, Any], *packages: str, quiet: bool = False) -> None:
    """Appends a row and, unless ``quiet``, prints it. ``packages`` are those whose versions matter to it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    full = {"bench": bench, "commit": commit(), "machine": f"{platform.machine()}, {cores} cores", **row}
    if packages:
        full["versions"] = {name: version(name) for name in packages}
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(full) + "\n")
    if not quiet:
        print(json.dumps(full, indent=1), flush=True)
