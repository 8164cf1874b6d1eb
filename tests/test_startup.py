"""Starting is quick and never fails for the sake of a library that the command at hand does not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ["extract_text.py", "prepare_dataset.py", "finetune.py", "export_model.py"]
HEAVY = ["torch", "docling", "docling_parse", "transformers", "bitsandbytes", "peft", "numba", "gguf", "pypdfium2", "triton", "xllamacpp", "rich"]


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT / "finetune", capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script: str) -> None:
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        f"finally: print('HEAVY', sorted(set(sys.modules) & set({HEAVY})))"
    )
    answer = python(code, script)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.endswith("HEAVY []\n")


@pytest.mark.parametrize("library", ["torch", "transformers", "docling", "triton", "bitsandbytes", "xllamacpp", "pdfplumber", "pypdf", "typst"])
@pytest.mark.parametrize("room", ["extract", "dataset", "train", "export"])
def test_a_missing_library_never_keeps_a_step_from_being_loaded(room: str, library: str) -> None:
    answer = python(f"import sys; sys.modules['{library}'] = None; import papertune.cli, papertune.{room}.stage")
    assert answer.returncode == 0, answer.stderr
