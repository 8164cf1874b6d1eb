"""``test_fused.py`` by Triton's interpreter, on a machine without a GPU. The interpreter must be chosen before Triton is imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the kernels themselves are tested")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_interpreted() -> None:
    triton_on_numpy = "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
    command = [sys.executable, "-m", "pytest", "-q", "-W", triton_on_numpy, str(Path(__file__).with_name("test_fused.py"))]
    answer = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout[-4000:]
    assert " passed" in answer.stdout
