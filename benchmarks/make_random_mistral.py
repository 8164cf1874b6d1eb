"""Writes a checkpoint with the true shapes of Mistral-7B-v0.1, random weights and the real tokenizer: 14.5 GB in eight files.

Memory and speed of training, merging and quantising depend on shapes, not on what a model knows, so the real size can be measured
without a download or a login. About half a minute with a GPU, which draws the numbers; minutes without.

    python benchmarks/make_random_mistral.py /scratch/mistral [--layers 32] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from papertune.tiny import tokenizer_bytes

HIDDEN, INNER, HEADS, KV_HEADS, HEAD, VOCABULARY = 4096, 14336, 32, 8, 128, 32000
A_FILE = 4  # layers

CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    written = write_model(options.folder, options.layers, options.seed)
    print(f"{options.folder}: {written / 1e9:.2f} GB in {time.monotonic() - began:.0f} s")


def write_model(folder: Path, layers: int, seed: int) -> int:
    """Returns the bytes of weights written."""
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = torch.Generator(device).manual_seed(seed)

    def weight(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=random)

    def ones() -> torch.Tensor:
        return torch.ones(HIDDEN, dtype=torch.bfloat16, device=device)

    files = -(-layers // A_FILE)
    places: dict[str, str] = {}
    total = 0
    for i in range(files):
        tensors = {}
        for layer in range(i * A_FILE, min((i + 1) * A_FILE, layers)):
            at = f"model.layers.{layer}"
            tensors[f"{at}.self_attn.q_proj.weight"] = weight(HEADS * HEAD, HIDDEN)
            tensors[f"{at}.self_attn.k_proj.weight"] = weight(KV_HEADS * HEAD, HIDDEN)
            tensors[f"{at}.self_attn.v_proj.weight"] = weight(KV_HEADS * HEAD, HIDDEN)
            tensors[f"{at}.self_attn.o_proj.weight"] = weight(HIDDEN, HEADS * HEAD)
            tensors[f"{at}.mlp.gate_proj.weight"] = weight(INNER, HIDDEN)
            tensors[f"{at}.mlp.up_proj.weight"] = weight(INNER, HIDDEN)
            tensors[f"{at}.mlp.down_proj.weight"] = weight(HIDDEN, INNER)
            tensors[f"{at}.input_layernorm.weight"] = ones()
            tensors[f"{at}.post_attention_layernorm.weight"] = ones()
        if i == 0:
            tensors["model.embed_tokens.weight"] = weight(VOCABULARY, HIDDEN)
        if i == files - 1:
            tensors["model.norm.weight"] = ones()
            tensors["lm_head.weight"] = weight(VOCABULARY, HIDDEN)
        name = f"model-{i + 1:05d}-of-{files:05d}.safetensors"
        save_file({key: tensor.cpu() for key, tensor in tensors.items()}, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    words = {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for name, content in {
        "model.safetensors.index.json": index,
        "config.json": {**CONFIG, "num_hidden_layers": layers},
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
        "tokenizer_config.json": {**words, "tokenizer_class": "LlamaTokenizer", "legacy": True},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "tokenizer.model").write_bytes(tokenizer_bytes())
    return total


if __name__ == "__main__":
    main()
