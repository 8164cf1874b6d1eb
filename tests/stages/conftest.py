from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF that ``papertune demo`` makes: the one that PAPERTUNE_DEMO_GGUF names, or the demo runs once (a minute and a half)."""
    if named := os.environ.get("PAPERTUNE_DEMO_GGUF"):
        return Path(named)
    pytest.importorskip("papertune.demo.typeset")
    folder = tmp_path_factory.mktemp("demo")
    subprocess.run([sys.executable, "-m", "papertune", "demo", "--folder", folder], check=True, stdout=subprocess.DEVNULL)
    return folder / "demo.gguf"
