"""The base model's tensors, straight from its safetensors files to the device, one at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from papertune.base import Base, open_weights
from papertune.errors import BadModel


class Weights:
    """The tensors of a base model by Hugging Face name. Files are mapped, not read: a tensor is in memory only while it is used.

    They are asked for on the CPU and moved: asked for on a GPU, safetensors 0.8 pins memory for them, and Linux under Windows (WSL2) ran out of
    what it may pin at nine gigabytes (its issue 858).
    """

    def __init__(self, base: Base, device: torch.device, dtype: torch.dtype) -> None:
        self._base, self._device, self._dtype = base, device, dtype
        self._files: dict[str, Any] = {}
        for path in base.weight_files:
            file = open_weights(path, "pt")
            self._files.update(dict.fromkeys(file.keys(), file))

    def __call__(self, name: str, rows: int, columns: int = 0) -> Tensor:
        """The tensor NAME.weight of this shape (a vector without ``columns``), in the engine's type. Raises BadModel."""
        full = f"{name}.weight"
        if full not in self._files:
            raise BadModel(f"{self._base.folder} holds no {full}.", "Download the model again.")
        tensor: Tensor = self._files[full].get_tensor(full)
        wanted = (rows, columns) if columns else (rows,)
        if tensor.shape != wanted:
            raise BadModel(f"{self._base.folder}: {full} has shape {tuple(tensor.shape)}, not {wanted}.", "Download the model again.")
        return tensor.to(self._device).to(self._dtype)
