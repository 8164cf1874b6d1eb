"""What each quantisation costs on real weights and text: bits per byte, and whether greedy text stays the same.

    python benchmarks/bench_export_quality.py --adapter FOLDER --held held_out_texts --val val.jsonl --out FOLDER [--untied] [--only …]

``--held`` is a folder of .txt files that training did not see. Bits per byte are over windows of 512 tokens from each document's beginning;
``torch`` is the merged model in float32 arithmetic. Every quantisation is measured without an importance matrix and with ones of so many
passages of ``--val`` as ``--passages`` says, and merged into the base's own weights and into NF4's. Greedy text: 64 tokens after each of 50
prompts of 32 tokens, written by torch with the merged bf16 weights; at each of them the GGUF is asked what it would write. With ``--untied``
all of it is done for the base's twin, the same model with its tied head as a tensor of its own. Rows go to ``results.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from results import record
from safetensors.torch import load_file, save_file

from papertune.adapter import open_adapter
from papertune.base import open_base
from papertune.config import ExportConfig
from papertune.export.check import load_gguf
from papertune.export.forward import run_model
from papertune.export.imatrix import collect, write_imatrix
from papertune.export.source import TensorSource
from papertune.export.stage import run
from papertune.export.texts import sample_texts, sample_tokens
from papertune.tokenizer import Tokenizer, open_tokenizer

WINDOW = 512
Document = list[list[int]]  # windows of token numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--held", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--val", type=Path, default=Path("./dataset/val.jsonl"))
    parser.add_argument("--untied", action="store_true")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--quants", default="F16,Q8_0,Q6_K,Q4_K_M")
    parser.add_argument("--passages", default="32", help="sizes of importance matrices, such as 32,256")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--only", choices=("bits", "greedy"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    adapter = untie(args.adapter, args.out / "untied") if args.untied else args.adapter
    head = "untied" if args.untied else "as it is"
    tokenizer = open_tokenizer(open_base(open_adapter(adapter).base_model).folder)
    documents = [tokenizer.encode(path.read_text()) for path in sorted(args.held.glob("*.txt"))]
    if args.only != "greedy":
        bits(args, adapter, head, tokenizer, [list(cut(ids, args.windows)) for ids in documents])
    if args.only != "bits":
        prompts = [window[:32] for ids in documents for window in cut(ids, -(-args.prompts // len(documents)))][: args.prompts]
        for quant in ("F16", "Q4_K_M"):
            record("export", {"kind": "greedy", "head": head, "quant": quant, **greedy(args.out, adapter, prompts, quant)})


def untie(adapter: Path, folder: Path) -> Path:
    """The base with its head as a tensor of its own, and the adapter on it: the same function, quantised otherwise."""
    base, model = open_base(open_adapter(adapter).base_model).folder, folder / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, model)
    tensors = load_file(base / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, model / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    copy = shutil.copytree(adapter, folder / "adapter")
    settings = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(model)}))
    (copy / "papertune.json").unlink(missing_ok=True)  # which names the tied base
    return copy


def cut(ids: list[int], count: int) -> Iterator[list[int]]:
    """The first ``count`` windows."""
    for first in range(0, min(len(ids), count * WINDOW), WINDOW):
        if len(ids) - first > 1:
            yield ids[first : first + WINDOW]


def bits(args: argparse.Namespace, adapter: Path, head: str, tokenizer: Tokenizer, documents: list[Document]) -> None:
    sizes = np.array([sum(len(tokenizer.decode(window).encode()) for window in windows) for windows in documents])
    base = open_base(open_adapter(adapter).base_model)
    torch_bits: dict[str, float] = {}
    for merge_base in ("bf16", "nf4"):
        with TensorSource(base, open_adapter(adapter), nf4=merge_base == "nf4") as source:
            losses = [sum(map(nats, run_model(source, [[tokenizer.bos, *ids] for ids in windows]), windows)) for windows in documents]
        torch_bits[merge_base] = sum(losses) / np.log(2) / sizes.sum()
        row = {"head": head, "what": f"torch, merged into {merge_base}", "bits_per_byte": round(torch_bits[merge_base], 5)}
        record("export", {"kind": "quality", **row, "documents": len(documents), "tokens": sum(len(ids) for windows in documents for ids in windows)})
    for quant in args.quants.split(","):
        for merge_base in ("bf16", "nf4"):
            without: np.ndarray | None = None
            for passages in (0, *(int(n) for n in args.passages.split(","))) if "K" in quant else (0,):
                path = args.out / f"{quant}-{merge_base}-{passages}.gguf"
                matrix = str(importance(args, adapter, merge_base, passages)) if passages else "off"
                config = ExportConfig(lora_path=adapter, gguf_path=path, quant=quant, imatrix=matrix, merge_base=merge_base, verify=False)
                run(config)
                with load_gguf(path, WINDOW + 1) as gguf:
                    each = [sum(float(gguf.losses([tokenizer.bos, *ids], 1).sum()) for ids in windows) for windows in documents]
                per_byte = np.array(each) / np.log(2) / sizes
                found = float(np.sum(each) / np.log(2) / sizes.sum())
                row = {"head": head, "quant": quant, "merge_base": merge_base, "imatrix_passages": passages, "bits_per_byte": round(found, 5)}
                row |= {"against_torch": f"{found / torch_bits[merge_base] - 1:+.3%}", "bytes": path.stat().st_size}
                if without is not None:
                    row["better_than_without"] = f"in {int((per_byte < without).sum())} of {len(documents)} documents"
                without = per_byte if without is None else without
                record("export", {"kind": "quality", **row})


def importance(args: argparse.Namespace, adapter: Path, merge_base: str, passages: int) -> Path:
    """An importance matrix of so many passages of at most 512 tokens."""
    path: Path = args.out / f"{adapter.parent.name}-{merge_base}-{passages}.imatrix.gguf"
    if not path.exists():
        base = open_base(open_adapter(adapter).base_model)
        with TensorSource(base, open_adapter(adapter), nf4=merge_base == "nf4") as source:
            tokens = sample_tokens(base, sample_texts(args.val), count=passages, length=512)
            write_imatrix(path, collect(source, tokens), args.val.name)
        print(f"{path.name}: {sum(map(len, tokens))} tokens", flush=True)
    return path


def nats(logits: np.ndarray, ids: list[int]) -> float:
    """Sum of −ln p of ``ids``, with ``logits`` after the begin token and each of them."""
    wide = logits[:-1].astype(np.float64)
    top = wide.max(axis=1)
    return float((top + np.log(np.exp(wide - top[:, None]).sum(axis=1)) - wide[np.arange(len(ids)), ids]).sum())


def greedy(out: Path, adapter: Path, prompts: list[list[int]], quant: str) -> dict[str, object]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(open_base(open_adapter(adapter).base_model).folder, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().float()
    path = out / f"{quant}-bf16-0.gguf"
    run(ExportConfig(lora_path=adapter, gguf_path=path, quant=quant, verify=False))
    same, whole, count = 0, 0, 0
    with load_gguf(path, 128) as gguf:
        for ids in prompts:
            prompt = [gguf.bos, *ids]
            with torch.no_grad():
                written = model.generate(torch.tensor([prompt]), max_new_tokens=64, min_new_tokens=64, do_sample=False)[0].tolist()
            theirs = gguf.logits(written[:-1])[len(prompt) - 1 :]
            theirs[:, 2] = -np.inf  # torch was not let end either
            agree = theirs.argmax(axis=1) == np.array(written[len(prompt) :])
            same, whole, count = same + int(agree.sum()), whole + int(agree.all()), count + agree.size
    return {"agreement": round(same / count, 5), "tokens": count, "whole_texts": whole, "texts": len(prompts)}


if __name__ == "__main__":
    main()
