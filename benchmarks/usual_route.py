"""The three stages of the usual way from adapter to GGUF, each measured alone. See ``bench_export.py usual``.

``convert`` stands for llama.cpp's convert_hf_to_gguf.py, which is not on the package index: it writes the same 16-bit file (``--outtype auto``,
its default: bf16 for a bf16 model) with the same ``gguf`` package, tensor by tensor. ``quantise`` stands for llama-quantize: ggml's own C code
over slabs of each tensor, all cores.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from bench_export import ggml_quantizer, measured

_SLAB = 1 << 20


def run(stage: str, base: str, adapter: str, folder: str, quant: str) -> None:
    place = Path(folder)
    work = {
        "merge": lambda: merge(base, adapter, place / "merged"),
        "convert": lambda: convert(place / "merged", Path(base), place / "bf16.gguf"),
        "quantise": lambda: quantise(place / "bf16.gguf", place / "quantised.gguf", quant),
    }[stage]
    row = measured(work)
    row.pop("value")
    print(json.dumps(row))


def merge(base: str, adapter: str, out: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, low_cpu_mem_usage=True)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)


def convert(merged: Path, base: Path, out: Path) -> None:
    """The merged folder to bf16, vectors to f32."""
    import torch
    from gguf import GGMLQuantizationType, GGUFWriter
    from safetensors import safe_open

    from papertune.base import open_folder
    from papertune.family import key_value_heads

    opened = open_folder(_with_tokenizer(merged, base), "merged")
    config = opened.config
    heads, shared = config["num_attention_heads"], key_value_heads(config)
    writer = GGUFWriter(out, "llama")
    _metadata(writer, config, base)
    handles = {}
    for path in opened.weight_files:
        handle = safe_open(path, "pt")  # type: ignore[no-untyped-call]
        handles |= dict.fromkeys(handle.keys(), handle)
    names = [(o, t) for o, t in opened.family.tensors(config["num_hidden_layers"]) if o in handles]
    for ours, theirs in names:
        shape = handles[ours].get_slice(ours).get_shape()
        if len(shape) > 1:
            writer.add_tensor_info(theirs, (shape[0], shape[1] * 2), np.dtype(np.uint8), int(np.prod(shape)) * 2, GGMLQuantizationType.BF16)
        else:
            writer.add_tensor_info(theirs, tuple(shape), np.dtype(np.float32), shape[0] * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for ours, _ in names:
        tensor = handles[ours].get_tensor(ours)
        count = heads if "q_proj" in ours else shared if "k_proj" in ours else 0
        if count:
            tensor = tensor.reshape(count, 2, tensor.shape[0] // count // 2, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        writer.write_tensor_data(tensor.contiguous().view(torch.uint16).numpy() if tensor.ndim > 1 else tensor.float().numpy())
    writer.close()


def _with_tokenizer(merged: Path, base: Path) -> Path:
    (merged / "tokenizer.model").write_bytes((base / "tokenizer.model").read_bytes())
    return merged


def _metadata(writer: Any, config: dict[str, Any], base: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
    count = pieces.vocab_size()
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_token_list([pieces.IdToPiece(i) for i in range(count)])
    writer.add_token_scores([pieces.GetScore(i) for i in range(count)])


def quantise(source: Path, out: Path, quant: str) -> None:
    """Reads the 16-bit file and writes the quantised one, with the same types as ours."""
    from gguf import GGUFReader

    from papertune.export.mix import MIXES, Shape, type_of
    from papertune.export.quantize.types import TYPES

    ggml = ggml_quantizer()
    tensors = GGUFReader(source).tensors
    layers = 1 + max(int(t.name.split(".")[1]) for t in tensors if t.name.startswith("blk."))
    model = Shape(layers, not any(t.name == "output.weight" for t in tensors), False, False)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with out.open("wb") as file, ThreadPoolExecutor(threads) as pool:
        for tensor in tensors:
            kind = type_of(MIXES[quant], tensor.name, tuple(int(extent) for extent in reversed(tensor.shape)), model)
            if kind is TYPES["F32"]:
                file.write(tensor.data.tobytes())
                continue
            bits = tensor.data.view(np.uint16)
            rows, columns = bits.shape
            result = np.empty((rows, kind.row_bytes(columns)), np.uint8)
            step = max(1, _SLAB // columns)

            def slab(first: int, bits: Any = bits, step: int = step, kind: Any = kind, result: Any = result) -> None:
                values = (bits[first : first + step].astype(np.uint32) << 16).view(np.float32)
                ggml(kind.number, values, result[first : first + step])

            list(pool.map(slab, range(0, rows, step)))
            file.write(result.data)


if __name__ == "__main__":
    run(*sys.argv[1:])
