"""A base model of random weights wide enough for every type of block."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from papertune.base import open_base


def wide_model(folder: Path, tied: bool) -> Path:
    """Random weights: rows of whole super-blocks, eight layers, so that every rule of the mixes has its turn."""
    tiny = open_base("tiny").folder
    shutil.copytree(tiny, folder)
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    config = {**json.loads((tiny / "config.json").read_text()), **sizes, "tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))
    random = torch.Generator().manual_seed(0)
    shapes = {"q_proj": (256, 256), "k_proj": (128, 256), "v_proj": (128, 256), "o_proj": (256, 256)}
    shapes |= {"gate_proj": (768, 256), "up_proj": (768, 256), "down_proj": (256, 768), "embed_tokens": (32000, 256), "lm_head": (32000, 256)}
    tensors = {}
    for name, _ in open_base("tiny").family.tensors(8):
        if not (tied and "lm_head" in name):
            tensors[name] = torch.empty(shapes.get(name.split(".")[-2], (256,))).normal_(0, 0.02, generator=random).bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
