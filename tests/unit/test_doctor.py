"""``papertune doctor``: what is here, what is missing, and how to mend it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from papertune import doctor
from tests import fake_gpu


def examined(patch: pytest.MonkeyPatch, *names: str) -> str:
    patch.setattr(doctor, "_LIBRARIES", [(name, "a purpose", f"pip install {name}", True) for name in names])
    said: list[str] = []
    doctor.examine(show=said.append)
    return "\n".join(said)


def test_a_library_that_is_missing_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    said = examined(monkeypatch, "lxml", "no_such_library")
    assert "ok       lxml: " in said
    assert "MISSING  no_such_library: not usable for a purpose: " in said
    assert said.splitlines()[-1].endswith("the fix stands behind each arrow.")
    assert "  →  pip install no_such_library" in said


@pytest.mark.skipif(os.name == "nt", reason="the program that stands in for the driver's is a shell script")
def test_a_gpu_that_this_torch_cannot_use_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.version.cuda is not None:
        pytest.skip("this torch is built for GPUs")
    fake_gpu.put_on_path(tmp_path, monkeypatch)
    said = examined(monkeypatch, "torch")
    assert f"ok       GPU: {fake_gpu.NAME}, 8.0 GiB, 7.2 GiB free, driver 580.65.06" in said
    assert "C compiler: " in said or sys.platform != "linux"
    assert f"MISSING  torch: {torch.__version__}, without CUDA (a purpose)  →  install its CUDA build" in said
