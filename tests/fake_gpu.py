"""An ``nvidia-smi`` that tells of a card which is not here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NAME = "NVIDIA GeForce RTX 3070"


def put_on_path(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """First on PATH, so that it answers; POSIX only."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{NAME}, 8192, 7400, 580.65.06, 8.6'\n")
    program.chmod(0o755)
    patch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))
