"""Which models a run measures, and how each is opened: only when something of it is not measured yet."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from papertune.adapter import WEIGHTS, Adapter, open_adapter
from papertune.base import Base, open_base
from papertune.config import EvaluateConfig
from papertune.device import cores
from papertune.errors import BadGguf
from papertune.evaluate.perplexity import Model
from papertune.files import sha256_of

if TYPE_CHECKING:
    from papertune.evaluate.models import TorchModel


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure. ``kind`` is base, tuned or gguf; ``fingerprint`` changes with its weights; ``path`` is a GGUF's file."""

    name: str
    kind: str
    fingerprint: str
    path: Path | None = None


class Subjects:
    """The models of a run. Base and adapter share one set of weights in memory. Raises BadAdapter, BadModel, ModelAccess, BadGguf."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config
        self._threads = config.threads or cores()
        self._base: Base | None = None
        self._adapter: Adapter | None = None
        self.all: list[Subject] = []
        if not config.only_gguf:
            self._adapter = open_adapter(config.lora_path)
            self._base = open_base(config.model or self._adapter.base_model)
            base = self._base.fingerprint()
            self._adapter.check_base(self._base.name, base)
            weights = sha256_of(self._adapter.folder / WEIGHTS)
            self.all = [
                Subject(self._base.name, "base", base),
                Subject(f"{self._base.name} + {config.lora_path}", "tuned", hashlib.sha256((base + weights).encode()).hexdigest()),
            ]
        for path in dict.fromkeys(config.gguf):
            if not path.is_file():
                raise BadGguf(f"There is no GGUF file {path}.", "Run export_model.py first, or name the file with --gguf.")
            self.all.append(Subject(str(path), "gguf", sha256_of(path), path))
        if not self.all:
            raise BadGguf("--only-gguf, but no GGUF file is named.", "Name them with --gguf.")

    def opened(self, wanted: list[Subject]) -> Generator[tuple[Subject, Model], None, None]:
        """The wanted subjects with their models, one in memory at a time; close it when done."""
        torch: TorchModel | None = None
        for subject in wanted:
            if subject.path is not None:
                from papertune.evaluate.models import GgufModel

                torch = None  # lets go of its memory
                gguf = GgufModel(subject.path, window=self._config.context, threads=self._threads)
                with gguf.gguf:
                    yield subject, gguf
                continue
            torch = torch or self._load()
            if subject.kind == "base":
                with torch.untuned():
                    yield subject, torch
            else:
                yield subject, torch

    def _load(self) -> TorchModel:
        from papertune.evaluate.models import TorchModel

        assert self._base is not None
        return TorchModel(self._base, self._adapter, window=self._config.context, device=self._config.device, threads=self._threads)
