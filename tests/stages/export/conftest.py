"""An adapter of random weights on the built-in model, and an export of it in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from papertune.base import open_base
from papertune.config import ExportConfig
from tests.adapters import random_adapter


@pytest.fixture(scope="package")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(open_base("tiny"), tmp_path_factory.mktemp("adapter") / "final")


@pytest.fixture
def config(lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ExportConfig]:
    monkeypatch.chdir(tmp_path)
    return lambda **changes: ExportConfig(**{"lora_path": lora, "verify": False, **changes})
