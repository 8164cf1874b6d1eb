"""The reference engine: transformers runs the layers, autograd differentiates them. Any device; the meaning that faster engines must match.

An engine owns the model and the gradients; the loop owns the order of the data, the optimiser and everything that is saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from papertune.train.batches import TokenSequence
from papertune.train.loss import cross_entropy_sum
from papertune.train.model import Device, lora_parameters

if TYPE_CHECKING:
    import numpy as np


class ReferenceEngine:
    """Forward and backward of micro-batches through a PEFT model (``model.load_model``).

    ``parameters`` are the LoRA weights by PEFT name, float32; gradients gather in their ``.grad``.
    """

    name = "reference"

    def __init__(self, model: Any, device: Device) -> None:
        self.device = device
        self._causal = model.get_base_model()
        self._head: Tensor = self._causal.get_output_embeddings().weight
        self.parameters = lora_parameters(model)
        self.flat = None
        self.room: int | None = None  # most sequences at a time, once memory ran out with more
        self._largest = 0  # micro-batch that was tried

    def micro_batches(self, batch: Sequence[TokenSequence], size: int, /) -> list[list[TokenSequence]]:
        """``size`` sequences at a time, in order; fewer where memory ran out with so many."""
        size = min(size, self.room or size)
        return [list(batch[i : i + size]) for i in range(0, len(batch), size)]

    def accumulate(self, batch: Sequence[TokenSequence], scale: float, seed: int, places: Sequence[int] = (0,)) -> Tensor:
        """Adds the gradient of ``scale`` × summed loss of this micro-batch; returns the summed loss in nats (not scaled, on the device).

        ``seed`` and the first of ``places`` decide the dropout, so that a step repeats exactly whatever was computed before it.
        """
        torch.manual_seed((seed + places[0] * 0xC2B2AE3D) % (1 << 62))
        self._largest = len(batch)
        total = self._loss(batch)
        (total * scale).backward()  # type: ignore[no-untyped-call]
        return total.detach()

    def gradients(self) -> list[Tensor]:
        """All gradients, in a fixed order; zeros where nothing was accumulated."""
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]

    def measure(self, batch: Sequence[TokenSequence]) -> Tensor:
        """The summed loss in nats without dropout and without gradients."""
        self._largest = len(batch)
        with self._measuring():
            return self._loss(batch)

    def next_token(self, ids: np.ndarray) -> int:
        """The likeliest token after these."""
        with self._measuring():
            hidden = self._hidden(torch.from_numpy(ids).long()[None].to(self.device.kind))
            return int((self._head @ hidden[0, -1].to(self._head.dtype)).argmax())

    def economise(self) -> bool:
        """After memory ran out: half as many sequences at a time from here on; False when it was one already."""
        if self._largest < 2:
            return False
        self.room = self._largest // 2
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()
        return True

    def adapter(self) -> dict[str, np.ndarray]:
        """A copy of the LoRA weights, float32 on the CPU."""
        return {name: p.detach().cpu().numpy().copy() for name, p in self.parameters.items()}

    def load_adapter(self, tensors: Mapping[str, np.ndarray]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(torch.from_numpy(tensors[name]))

    def peak_memory(self) -> int:
        """Bytes: the most the allocator has held on a GPU, resident memory on a CPU."""
        if self.device.kind == "cuda":
            return int(torch.cuda.max_memory_reserved())
        import psutil

        return int(psutil.Process().memory_info().rss)

    def _loss(self, batch: Sequence[TokenSequence]) -> Tensor:
        ids, rows, targets = (t.to(self.device.kind, non_blocking=True) for t in _padded(batch))
        # Sequences are padded at their end and attention looks back only, so what stands in the padding changes nothing.
        return cross_entropy_sum(self._hidden(ids).flatten(0, 1)[rows], self._head, targets)

    def _hidden(self, ids: Tensor) -> Tensor:
        """The last hidden states (sequences × length × width)."""
        with self._autocast():
            hidden: Tensor = self._causal.model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Without dropout and without gradients."""
        self._causal.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._causal.train()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", self.device.dtype) if self.device.kind == "cuda" else nullcontext()


def _padded(batch: Sequence[TokenSequence]) -> tuple[Tensor, Tensor, Tensor]:
    """ids (sequences × longest) padded with 0; rows: flat positions that predict; targets: the token each of them predicts."""
    longest = max(len(item.ids) for item in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    rows, targets = [], []
    for i, item in enumerate(batch):
        tokens = torch.from_numpy(item.ids).long()
        ids[i, : len(tokens)] = tokens
        rows.append(torch.arange(item.start - 1, len(tokens) - 1) + i * longest)
        targets.append(tokens[item.start :])
    return ids, torch.cat(rows), torch.cat(targets)
