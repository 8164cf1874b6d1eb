"""``papertune run``: all four steps and the report of them from one command, and none of them twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = """
[extract]
input-dir = ["pdfs"]
engine = "fast"

[prepare]
val-ratio = 0.2

[train]
model = "tiny"
max-seq-len = 128
max-steps = 3
"""


def run(folder: Path) -> str:
    command = [sys.executable, "-m", "papertune", "run"]
    answer = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_four_steps_once_and_then_nothing(tmp_path: Path) -> None:
    pytest.importorskip("typst")
    from papertune.demo.typeset import write_papers

    write_papers(tmp_path / "pdfs")
    (tmp_path / "papertune.toml").write_text(SETTINGS)
    assert "Nothing has changed" not in run(tmp_path)
    files = ("dataset/train.jsonl", "scientific-mistral.gguf", "report.html")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / name for name in files)}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "7 of 7 files gave text" in page
    assert "Every link that can be compared holds" in page
    assert "not recorded" not in page
    assert "Checked. " in page
    assert "Run: <code>papertune evaluate --gguf scientific-mistral.gguf</code>" in page
    again = run(tmp_path)
    assert again.count("Nothing has changed since the last run") == 5
    assert {path: path.stat().st_mtime_ns for path in made} == made
    (tmp_path / "papertune.toml").write_text(SETTINGS.replace("max-steps = 3", "max-steps = 4"))
    changed = run(tmp_path)
    assert changed.count("Nothing has changed since the last run") == 2
