"""Adapters with random weights for tests of what comes after training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from papertune.adapter import write_adapter
from papertune.base import Base
from papertune.family import head_size, key_value_heads


def random_adapter(base: Base, folder: Path, *, rank: int = 4, size: float = 0.1, seed: int = 0, provenance: dict[str, Any] | None = None) -> Path:
    """A LoRA adapter on all seven projections of ``base``; ``size`` is the spread of B, 0 for an adapter that changes nothing."""
    config, random = base.config, np.random.default_rng(seed)
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    queries, keys = head_size(config) * config["num_attention_heads"], head_size(config) * key_value_heads(config)
    shapes = {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (ffn, hidden),
        "up_proj": (ffn, hidden),
        "down_proj": (hidden, ffn),
    }
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for projection, (rows, columns) in shapes.items():
            module = f"base_model.model.model.layers.{layer}.{base.family.linear(projection)}"
            tensors[f"{module}.lora_A.weight"] = ((random.random((rank, columns)) * 2 - 1) / columns**0.5).astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = (random.standard_normal((rows, rank)) * size).astype(np.float32)
    modules = base.family.projections
    write_adapter(folder, tensors, base_model=base.name, rank=rank, alpha=2 * rank, dropout=0.0, target_modules=modules, provenance=provenance or {})
    return folder


def with_changed_base(base: Path, to: Path, lora: Path, change: dict[str, Any]) -> Path:
    """A copy of the base model with another config.json, and an adapter that names it."""
    shutil.copytree(base, to)
    settings = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**settings, **change}))
    adapter = shutil.copytree(lora, to.with_name(to.name + "-lora"))
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(to)}))
    return adapter
