"""The kernels one by one, at Mistral 7B's widths: time, bytes a second and share of what a copy reaches, beside the plain torch that defines them.

    PYTHONPATH=src python3 benchmarks/bench_kernels.py [--tokens 2048] [--card whole slice] [--out benchmarks/results.jsonl]

Needs a CUDA GPU; a minute. Medians of many launches, the cache emptied before each (``triton.testing.do_bench``). Bytes are those that must be
read and written once; ``slice`` is 8 of the card's multiprocessors, as in ``bench_step.py``. Dropout as by default.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from gpu_card import CONFIG, Card, Recorder
from torch import Tensor

from papertune.kernels import nf4, ops, reference
from papertune.kernels.ops import Mask

H, F, V = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
HEADS, KV = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
D, RANK, POSITIONS = H // HEADS, 16, 1024
QKV, R = (HEADS + 2 * KV) * D, 3 * RANK  # outputs of the queries', keys' and values' projections, and their LoRA columns


class Case(NamedTuple):
    name: str
    bytes: float
    ours: Callable[[], object]
    plain: Callable[[], object]


def main() -> None:
    from triton.testing import do_bench

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--card", nargs="+", default=["whole", "slice"], choices=["whole", "slice"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results.jsonl"))
    options = parser.parse_args()
    card, record = Card(CONFIG["num_hidden_layers"]), Recorder("kernels", options.out)
    for part in options.card:
        with card.on(part), torch.device("cuda"):
            large, other = torch.empty(1 << 28, dtype=torch.uint8), torch.empty(1 << 28, dtype=torch.uint8)
            copy = 2 * large.nbytes / do_bench(lambda: other.copy_(large), return_mode="median")  # noqa: B023 - called at once
            for case in cases(options.tokens):
                ours, plain = (do_bench(work, return_mode="median") for work in (case.ours, case.plain))
                record.write(
                    kernel=case.name, card=part, tokens=options.tokens, ms=round(ours, 4), gb_per_s=round(case.bytes / ours / 1e6),
                    share_of_a_copy=round(case.bytes / ours / copy, 2), plain_torch_ms=round(plain, 4), times_as_fast=round(plain / ours, 1),
                )  # fmt: skip


def cases(tokens: int) -> Iterator[Case]:
    """On torch's default device, a GPU."""
    from papertune.kernels import fused

    def filled(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.bfloat16)

    mask = Mask(torch.randint(-(2**31), 2**31, (tokens,)).int(), 12345, 0.05)
    angle = torch.rand(tokens, D // 2) * tokens
    cos, sin = angle.cos(), angle.sin()

    weight = nf4.quantize(filled(QKV, H))
    a, b = torch.randn(R, H), torch.randn(QKV, RANK)
    places = torch.stack((torch.arange(QKV), torch.arange(QKV) * 3 // QKV * RANK), dim=1).int()
    joined = filled(QKV + R, H + R)
    lora = 6 * (a.numel() + QKV * R)
    arguments, into = (weight, a, b, places, joined), joined[:QKV, :H]
    yield Case("dequantize", 2.516 * QKV * H, lambda: ops.dequantize(weight, into), lambda: reference.dequantize(weight, into))
    yield Case("join", 2.516 * QKV * H + lora, lambda: ops.join(*arguments), lambda: reference.join(*arguments))
    yield Case("renew", lora, lambda: ops.renew(*arguments[1:]), lambda: reference.renew(*arguments[1:]))

    x, norm, out, total, dy, r = filled(tokens, H), filled(H), filled(tokens, H + R)[:, :H], filled(tokens, H), filled(tokens, H), torch.rand(tokens)
    normed, normed_back = (x, norm, 1e-5, out, mask, total), (dy, x, norm, r, total, mask)
    yield Case("rms_norm", 8 * tokens * H, lambda: ops.rms_norm(*normed), lambda: reference.rms_norm(*normed))
    yield Case("rms_norm_backward", 10 * tokens * H, lambda: ops.rms_norm_backward_(*normed_back), lambda: reference.rms_norm_backward(*normed_back))
    yield Case("put", 6 * tokens * H, lambda: ops.put(x, out, mask), lambda: reference.put(x, out, mask))
    yield Case("dropout", 4 * tokens * H, lambda: ops.dropout(x, mask), lambda: reference.dropout(x, mask))

    qkv = filled(tokens, QKV + R)
    turn = (qkv, cos, sin, HEADS + KV)
    yield Case("rope", 4 * tokens * (HEADS + KV) * D, lambda: ops.rope_(*turn), lambda: reference.rope(*turn))
    heads = [part.view(tokens, -1, D) for part in qkv[:, :QKV].split([HEADS * D, KV * D, KV * D], dim=1)]
    gradients = (filled(tokens, HEADS, D), filled(tokens, HEADS, D), filled(tokens, HEADS, D), *heads, cos, sin)
    spreading = (*heads[1:], HEADS // KV)
    yield Case("spread", 4 * tokens * (KV + HEADS) * D, lambda: fused.spread(*spreading), lambda: reference.spread(*spreading))
    moved = 2 * tokens * D * (4 * HEADS + 2 * KV)
    yield Case("put_gradients", moved, lambda: fused.put_gradients(*gradients), lambda: reference.put_gradients(*gradients))

    gate_up, activated, d = filled(tokens, 2 * F + R), filled(tokens, F + R)[:, :F], filled(tokens, F)
    yield Case("swiglu", 8 * tokens * F, lambda: ops.swiglu(gate_up, activated, mask), lambda: reference.swiglu(gate_up, activated, mask))
    back = (d, gate_up, mask)
    yield Case("swiglu_backward", 12 * tokens * F, lambda: ops.swiglu_backward_(*back), lambda: reference.swiglu_backward(*back))

    v, below, u = filled(tokens, R), joined[QKV:, :H], filled(tokens, R)
    yield Case("lora_backward", 4 * tokens * H, lambda: ops.lora_backward_(v, below, x, mask), lambda: reference.lora_backward(v, below, x, mask))
    group = (filled(tokens, QKV + R), x, u, torch.zeros(R, H), torch.zeros(QKV, RANK), places)
    moved = 2 * tokens * (QKV + R + H + R) + 8 * (R * H + QKV * RANK)
    yield Case("gather", moved, lambda: ops.gather_(*group), lambda: reference.gather(*group))

    logits, targets = filled(POSITIONS, V), torch.randint(0, V, (POSITIONS,))
    loss = (logits, targets, 1e-4)
    yield Case("cross_entropy", 4 * POSITIONS * V, lambda: ops.cross_entropy_(*loss), lambda: reference.cross_entropy(*loss))


if __name__ == "__main__":
    main()
