"""What each quantisation costs on real weights and text: bits per byte, and whether greedy text stays the same.

    python benchmarks/bench_export_quality.py --adapter FOLDER --texts held.json --out FOLDER [--val val.jsonl] [--windows 3]

``--texts`` is a JSON list of documents that training did not see. Bits per byte are over windows of 512 tokens from each document's beginning;
``torch`` is the merged model in float32 arithmetic. Greedy text: 64 tokens after each of 50 prompts, written by torch; at each of them the
GGUF is asked what it would write. Rows go to ``results.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from bench_export import record

from papertune.adapter import open_adapter
from papertune.base import open_base
from papertune.config import ExportConfig
from papertune.export.check import load_gguf
from papertune.export.forward import run_model
from papertune.export.source import TensorSource
from papertune.export.stage import run
from papertune.tokenizer import Tokenizer, open_tokenizer

WINDOW = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--val", type=Path, default=Path("./dataset/val.jsonl"))
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--quants", default="F16,BF16,Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_K_S")
    parser.add_argument("--prompts", type=int, default=50)
    args = parser.parse_args()
    base = open_base(open_adapter(args.adapter).base_model)
    tokenizer = open_tokenizer(base.folder)
    windows = cut(tokenizer, json.loads(args.texts.read_text()), args.windows)
    size = sum(len(tokenizer.decode(ids).encode()) for ids in windows)
    reference: dict[str, float] = {}
    for merge_base in ("bf16", "nf4"):
        with TensorSource(base, open_adapter(args.adapter), nf4=merge_base == "nf4") as source:
            logits = [logit for ids in windows for logit in run_model(source, [[tokenizer.bos, *ids]])]
        reference[merge_base] = sum(nats(x, ids) for x, ids in zip(logits, windows, strict=True)) / np.log(2) / size
        record("quality", {"what": f"torch, merged into {merge_base}", "bits_per_byte": round(reference[merge_base], 5)})
    for quant in args.quants.split(","):
        for imatrix in ("off", "auto") if quant.startswith("Q") and quant != "Q8_0" else ("off",):
            for merge_base in ("bf16", "nf4"):
                path = args.out / f"{quant}-{imatrix}-{merge_base}.gguf"
                config = ExportConfig(
                    lora_path=args.adapter, gguf_path=path, quant=quant, imatrix=imatrix, merge_base=merge_base, val_file=args.val, verify=False
                )
                run(config)
                with load_gguf(path, WINDOW + 1) as gguf:
                    losses = sum(float(gguf.losses([tokenizer.bos, *ids], 1).sum()) for ids in windows)
                bits = losses / np.log(2) / size
                change = f"{bits / reference[merge_base] - 1:+.3%}"
                record("quality", {"what": path.stem, "bits_per_byte": round(bits, 5), "against_torch": change, "bytes": path.stat().st_size})
    for quant in ("F16", "Q4_K_M"):
        record("greedy", {"quant": quant, **greedy(args.out, base.name, args.adapter, (windows * args.prompts)[: args.prompts], quant)})


def cut(tokenizer: Tokenizer, texts: list[str], count: int) -> list[list[int]]:
    """The first ``count`` windows of each text."""
    windows = []
    for text in texts:
        ids = tokenizer.encode(text)
        windows += [ids[first : first + WINDOW] for first in range(0, min(len(ids), count * WINDOW), WINDOW)]
    return [ids for ids in windows if len(ids) > 1]


def nats(logits: np.ndarray, ids: list[int]) -> float:
    """Sum of −ln p of ``ids``, with ``logits`` after the begin token and each of them."""
    wide = logits[:-1].astype(np.float64)
    top = wide.max(axis=1)
    return float((top + np.log(np.exp(wide - top[:, None]).sum(axis=1)) - wide[np.arange(len(ids)), ids]).sum())


def greedy(out: Path, base: str, adapter: Path, windows: list[list[int]], quant: str) -> dict[str, object]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(open_base(base).folder, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().float()
    same, whole, count = 0, 0, 0
    with load_gguf(out / f"{quant}-off-bf16.gguf", 128) as gguf:
        for ids in windows:
            prompt = [gguf.bos, *ids[:32]]
            with torch.no_grad():
                written = model.generate(torch.tensor([prompt]), max_new_tokens=64, min_new_tokens=64, do_sample=False)[0].tolist()
            theirs = gguf.logits(written[:-1])[len(prompt) - 1 :]
            theirs[:, 2] = -np.inf  # torch was not let end either
            agree = theirs.argmax(axis=1) == np.array(written[len(prompt) :])
            same, whole, count = same + int(agree.sum()), whole + int(agree.all()), count + agree.size
    return {"agreement": round(same / count, 5), "tokens": count, "whole_texts": whole, "texts": len(windows)}


if __name__ == "__main__":
    main()
