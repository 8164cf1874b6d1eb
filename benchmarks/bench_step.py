"""One optimiser step of QLoRA on Mistral 7B: the fast engine and its peers, side by side on one GPU.

    PYTHONPATH=src python3 benchmarks/bench_step.py --out step.jsonl              check, hf, fast, caps: under 6 minutes
    PYTHONPATH=src python3 benchmarks/bench_step.py --layers 4 --out step.jsonl   a look at it, under 2
    … --parts hf,liger,compiled,unsloth,fast --checkpoint DIR                     every peer; DIR from make_random_mistral.py, for Unsloth
    … --parts unsloth-longest --tokens 8192 --checkpoint DIR                       its longest sequence

Needs a CUDA GPU, torch, triton, transformers, peft, bitsandbytes; no weights: they are random, of Mistral 7B's shapes. Each part runs in a
process of its own, so that its memory figures are its own:

check     4 layers: how far LoRA gradients are from float32 arithmetic on the same dequantised weights, for HF and for every plan of ours;
          dequantisation against bitsandbytes, bit for bit, and its bandwidth
hf        the usual stack, gradient checkpointing as PEFT prepares it
liger     the same with Liger's kernels
compiled  the same without float32 copies, each layer compiled
unsloth   Unsloth at its defaults, and with the sequences packed by hand
fast      the engine under several plans, in 7.2 GiB on the slice; where its time goes, by kernel; the longest sequences
caps      the engine left to plan for itself under many limits of memory: does it fit, and was the peak foreseen

Of each peer also the longest sequence whose steps fit 7.2 GiB, all of the card computing (of Unsloth by a part of its own).
"slice" is 8 of the card's multiprocessors (a CUDA green context), about the matrix rate of an RTX 3070 but with more memory bandwidth a
multiprocessor: a stand-in, not that card. Times are medians of whole steps (forward, backward, clipping, 8-bit AdamW), synchronised.
MFU counts 6 operations a weight and token against 790 TFLOP/s, what an H100 or H200 reached on a large bf16 product.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import step_peers
from gpu_card import ALPHA, CAP, CONFIG, GIB, RAGGED, RANK, Card, Recorder, random_matrix, sequences

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # wanted by deterministic algorithms

LIMIT = 300  # seconds a part may take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--parts", default="check,hf,fast,caps")
    parser.add_argument("--checkpoint", type=Path, help="a model of these shapes on disk, for Unsloth")
    parser.add_argument("--tokens", type=int, default=1024, help="where a peer's longest sequence is looked for from upwards")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results.jsonl"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        {"check": check, "fast": fast, "caps": caps, **step_peers.PARTS}[options.part](options)
        return
    began = options.out.stat().st_size if options.out.exists() else 0
    for part in options.parts.split(","):
        command = [sys.executable, __file__, "--part", part, "--layers", str(options.layers), "--tokens", str(options.tokens)]
        command += ["--out", str(options.out)]
        command += ["--checkpoint", str(options.checkpoint)] if options.checkpoint else []
        started = time.perf_counter()
        try:
            ended = f"exit {subprocess.run(command, check=False, timeout=LIMIT).returncode}"
        except subprocess.TimeoutExpired:
            ended = "stopped"
        print(f"-- {part}: {ended}, {time.perf_counter() - started:.0f} s", flush=True)
    if not options.out.exists():
        raise SystemExit("No part wrote a row.")
    with options.out.open() as file:
        file.seek(began)
        table([json.loads(line) for line in file])


def table(rows: list[dict[str, Any]]) -> None:
    usual = [row for row in rows if row.get("part") == "hf" and row.get("what") == "micro-batches of 1" and "tokens_per_s" in row]
    hf_speed = {(row["card"], row["shape"]): row["tokens_per_s"] for row in usual}
    print(f"{'card':6} {'shape':10} {'stack':46} {'s/step':>8} {'tokens/s':>9} {'x HF':>6} {'MFU':>6} {'alloc':>6} {'reserved':>8}")
    for row in sorted((row for row in rows if "tokens_per_s" in row), key=lambda row: (row["card"], row["shape"])):
        base = hf_speed.get((row["card"], row["shape"]))
        ratio = f"{row['tokens_per_s'] / base:.2f}" if base else "-"
        print(
            f"{row['card']:6} {row['shape']:10} {row['part'] + ' ' + row['what']:46} {row['s_per_step']:8.3f} {row['tokens_per_s']:9.0f} {ratio:>6} "
            f"{row['mfu']:6.1%} {row['alloc_gib']:6.2f} {row['reserved_gib']:8.2f}"
        )
    for row in rows:
        if "tokens_per_s" not in row:
            print(json.dumps({key: value for key, value in row.items() if key not in ("commit", "gpu", "versions")}))


# ---------------------------------------------------------------------------------------------- models


def our_engine(
    layers: int, matrix: Callable[[str, int, int], Any], *, dropout: float = 0.0, window: int = 0, frozen: Any = None, memory: int = 0, **plan: Any
) -> Any:
    """A fast engine on the base whose tensors ``matrix(name, rows, columns)`` gives (bf16, on the GPU); or on ``frozen``.

    With ``memory`` (bytes) it plans for itself.
    """
    import torch

    from papertune.base import Base
    from papertune.config import SEVEN_PROJECTIONS
    from papertune.family import MISTRAL
    from papertune.kernels import nf4
    from papertune.train.fast.engine import FastEngine, Frozen, frozen_layer
    from papertune.train.fast.flat import sizes
    from papertune.train.fast.plan import Plan
    from papertune.train.fast.shape import shape_of
    from papertune.train.model import Device

    config = {**CONFIG, "num_hidden_layers": layers, "sliding_window": window or None}
    base = Base("random", Path(), config, MISTRAL, ())
    shape = shape_of(base)
    if frozen is None:
        ones = torch.ones(shape.hidden, dtype=torch.bfloat16, device="cuda")
        rows = []
        for i in range(layers):
            small = {name: nf4.quantize(matrix(f"model.layers.{i}.{MISTRAL.linear(name)}", *size)) for name, size in sizes(shape).items()}
            rows.append(frozen_layer(ones, ones, small))
        frozen = Frozen(matrix("model.embed_tokens", shape.vocabulary, shape.hidden), matrix("lm_head", shape.vocabulary, shape.hidden), ones, rows)
    device = Device("cuda", torch.bfloat16, torch.cuda.get_device_name())
    lora: dict[str, Any] = {"rank": RANK, "alpha": ALPHA, "dropout": dropout, "targets": SEVEN_PROJECTIONS}
    return FastEngine(base, frozen, device, **lora, plan=None if memory else Plan(**plan), memory=memory), frozen


# ---------------------------------------------------------------------------------------------- parts


def check(options: argparse.Namespace) -> None:
    import torch

    record = Recorder("check", options.out)
    torch.backends.cuda.matmul.allow_tf32 = False
    _check_dequantisation(record)
    _check_bits(record)
    for window in (0, 100):
        _check_gradients(record, window)


def _check_dequantisation(record: Recorder) -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from triton.testing import do_bench

    from papertune.kernels import nf4, ops

    weight = random_matrix("dequantise", 14336, 4096)
    ours, codes = nf4.quantize(weight), quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    padded = torch.full((14336, 4096 + 32), torch.nan, dtype=torch.bfloat16, device="cuda")
    ops.dequantize(ours, padded[:, :4096])
    same = torch.equal(padded[:, :4096], dequantize_4bit(*codes))
    moved = weight.numel() * (0.516 + 2)
    speed = {
        "ours": do_bench(lambda: ops.dequantize(ours, padded[:, :4096]), return_mode="median"),
        "bitsandbytes": do_bench(lambda: dequantize_4bit(*codes), return_mode="median"),
    }
    record.write(dequantise_same_bits=same, gb_per_s={name: round(moved / ms / 1e6) for name, ms in speed.items()})


def _check_gradients(record: Recorder, window: int) -> None:
    """Relative distance of all LoRA gradients from float32, for 4 layers and 3 documents of 256 tokens."""
    import torch

    from papertune.config import SEVEN_PROJECTIONS
    from papertune.kernels import nf4, ops

    layers, batch = 4, sequences([256] * 3)
    ids = torch.tensor([item.ids.tolist() for item in batch], device="cuda")
    targets = sum(item.targets for item in batch)
    engine, frozen = our_engine(layers, random_matrix, window=window)
    torch.manual_seed(0)
    adapter = {
        name: (torch.rand(p.shape) * 2 - 1).numpy() / p.shape[1] ** 0.5 if ".lora_A." in name else torch.randn(p.shape).numpy() * 0.02
        for name, p in engine.parameters.items()
    }
    ours: dict[str, Any] = {}
    plans: dict[str, dict[str, Any]] = {
        "recompute": {}, "keep": {"keep": layers}, "offload": {"keep": 1, "offload": layers - 1}, "tiled": {"mlp_rows": 100, "loss_rows": 100},
        "long": {"park_inputs": True, "mlp_rows": 256, "head_groups": 4}, "host embedding": {"host_embedding": True},
        "weights twice": {"hold_weights": False}, "weights stay": {"keep": 1, "dequantised": layers},
        "attention": {"attention": layers}, "streamed": {"keep": 1, "offload": layers - 1, "stream_every": 1},
    }  # fmt: skip
    for name, plan in plans.items():
        engine, _ = our_engine(layers, random_matrix, window=window, frozen=frozen, **plan)
        engine.load_adapter(adapter)
        loss = engine.accumulate(batch, 1 / targets, 0)
        ours[name] = (float(loss) / targets, {key: p.grad.clone() for key, p in engine.parameters.items()})
    singles = our_engine(layers, random_matrix, window=window, frozen=frozen)[0]
    singles.load_adapter(adapter)
    losses = [float(singles.accumulate([item], 1 / targets, 0)) for item in batch]
    ours["one by one"] = (sum(losses) / targets, {key: p.grad for key, p in singles.parameters.items()})

    def dequantised(name: str, rows: int, columns: int) -> Any:
        matrix = random_matrix(name, rows, columns)
        if name.rpartition(".")[2] in SEVEN_PROJECTIONS:
            ops.dequantize(nf4.quantize(matrix), matrix)
        return matrix

    def theirs(model: Any, *, half: bool) -> tuple[float, dict[str, Any]]:
        trained = {name.replace(".default.", "."): p for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(torch.from_numpy(adapter[name]))
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return float(loss), {name: p.grad for name, p in trained.items()}

    exact_loss, exact = theirs(step_peers.usual_model(layers, window=window, dtype=torch.float32, matrix=dequantised, four_bit=False), half=False)
    hf_loss, usual = theirs(step_peers.usual_model(layers, window=window), half=True)

    def distance(gradients: dict[str, Any]) -> float:
        away = sum(float((gradients[name].float() - g).double().square().sum()) for name, g in exact.items())
        return round((away / sum(float(g.double().square().sum()) for g in exact.values())) ** 0.5, 4)

    record.write(
        gradient_error={"hf": distance(usual), **{name: distance(g) for name, (_, g) in ours.items()}}, window=window,
        loss={"float32": round(exact_loss, 5), "hf": round(hf_loss, 5), **{name: round(loss, 5) for name, (loss, _) in ours.items()}},
    )  # fmt: skip


def _check_bits(record: Recorder) -> None:
    """Whether losses and gradients of a step of 4 × 512 tokens have the same bits under every plan that does not cut the products."""
    import torch

    torch.use_deterministic_algorithms(True)
    layers, batch, first = 4, sequences([512] * 4), None
    frozen = our_engine(layers, random_matrix)[1]
    plans: dict[str, dict[str, Any]] = {
        "recompute": {}, "keep": {"keep": layers}, "offload": {"keep": 1, "offload": layers - 1}, "mixed": {"keep": 1, "offload": 1},
        "weights twice": {"hold_weights": False}, "weights stay": {"keep": 1, "dequantised": 2}, "attention": {"attention": layers},
        "parked": {"park_inputs": True, "hold_weights": False, "host_embedding": True},
        "streamed": {"keep": 1, "offload": layers - 1, "stream_every": 1}, "streamed, run again": {"dequantised": 1, "stream_every": 1},
        "every second streamed": {"keep": 1, "offload": layers - 1, "stream_every": 2},
    }  # fmt: skip
    same = {}
    for name, plan in plans.items():
        engine, _ = our_engine(layers, random_matrix, frozen=frozen, dropout=0.05, **plan)
        with torch.no_grad():
            engine.lora.parameter.normal_(std=0.02, generator=torch.Generator("cuda").manual_seed(0))
        loss = engine.accumulate(batch, 1e-3, 7)
        answer = torch.cat([loss[None], engine.lora.gradient])
        first = answer if first is None else first
        same[name] = torch.equal(answer, first)
    torch.use_deterministic_algorithms(False)
    record.write(same_bits=same)


def fast(options: argparse.Namespace) -> None:
    import torch
    from bitsandbytes.optim import AdamW8bit

    from papertune.train.fast.memory import Work

    record, card, layers = Recorder("fast", options.out), Card(options.layers), options.layers
    began = time.perf_counter()
    frozen = our_engine(layers, random_matrix)[1]
    torch.cuda.synchronize()
    print(f"   random weights made and quantised in {time.perf_counter() - began:.1f} s", flush=True)

    def stepping(lengths: list[int], *, micro: int = 1, dropout: float = 0.0, **plan: Any) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
        """A step over sequences of these lengths in ``micro`` packed micro-batches, and what to say of it: the plan and the memory foreseen.

        The previous engine's memory is free by then.
        """
        gc.collect()
        engine, _ = our_engine(layers, random_matrix, frozen=frozen, dropout=dropout, **plan)
        with torch.no_grad():
            engine.lora.parameter.normal_(std=0.02)
        optimizer = AdamW8bit([engine.lora.parameter], lr=2e-4)
        items = sequences(lengths)
        targets, size = sum(item.targets for item in items), len(items) // micro

        def foreseen() -> dict[str, Any]:
            resident = torch.cuda.memory_allocated() - engine.budget.held  # between steps
            peak = engine.budget.peak(engine.plan, Work(sum(lengths[:size]), sum(item.targets for item in items[:size]), size))
            return {"plan": str(engine.plan), "resident_gib": round(resident / GIB, 3), "foreseen_gib": round((resident + peak) / GIB, 3)}

        def step() -> None:
            for i in range(micro):
                engine.accumulate(items[i * size : (i + 1) * size], 1 / targets, i)
            torch.nn.utils.clip_grad_norm_([engine.lora.parameter], 1.0)
            optimizer.step()
            for parameter in engine.parameters.values():
                parameter.grad = None

        return step, foreseen

    def run(where: str, shape: str, what: str, lengths: list[int], *, steps: int = 3, warm: int = 1, **settings: Any) -> None:
        step, foreseen = stepping(lengths, **settings)
        card.measure(record, where, shape, what, step, sum(lengths), steps=steps, warm=warm, more=foreseen)

    four = [512] * 4
    share = layers / 32

    def part(count: int) -> int:
        return round(count * share)

    run("slice", "1x4x512", "packed, keep 2, offload 30", four, steps=5, keep=part(2), offload=part(30))
    run("slice", "1x4x512", "packed, the same, 4 dequantised", four, steps=5, keep=part(2), offload=part(30), dequantised=part(4))
    run("slice", "1x4x512", "packed, the same, 31 streamed", four, steps=5, keep=part(2), offload=part(30), dequantised=1, stream_every=1)
    run("slice", "1x4x512", "packed, keep 2, offload 30, dropout 0.05", four, keep=part(2), offload=part(30), dropout=0.05)
    run("slice", "1x4x512", "packed, keep 6, recompute 26", four, keep=part(6))
    run("slice", "1x4x512", "packed, planned by itself", four, steps=5, memory=round(CAP * GIB))
    run("slice", "ragged", "packed, keep 16, offload 16", RAGGED, steps=5, keep=part(16), offload=part(16))
    run("slice", "ragged", "packed, planned by itself", RAGGED, steps=5, memory=round(CAP * GIB))
    run("whole", "1x4x512", "packed, keep", four, steps=5, warm=2, keep=layers)
    run("whole", "1x4x512", "packed, keep, dequantised", four, steps=5, warm=2, keep=layers, dequantised=layers)
    run("whole", "1x4x512", "packed, recompute", four, steps=5, warm=2)
    run("whole", "ragged", "packed, keep", RAGGED, steps=5, warm=2, keep=layers)
    run("whole", "16x512", "packed, recompute", [512] * 16, steps=5)
    run("whole", "16x512", "packed, recompute, dequantised", [512] * 16, steps=5, dequantised=layers)
    run("whole", "16x512", "packed, recompute MLP, dequantised", [512] * 16, steps=5, attention=layers, dequantised=layers)
    run("whole", "16x512", "packed, keep", [512] * 16, steps=5, keep=layers)
    torch.use_deterministic_algorithms(True)  # as papertune trains, so that a resumed run repeats an uninterrupted one
    torch.utils.deterministic.fill_uninitialized_memory = False
    run("slice", "1x4x512", "packed, keep 2, offload 30, determin.", four, keep=part(2), offload=part(30))
    torch.use_deterministic_algorithms(False)
    card.profile(record, "whole", "1x4x512 packed, keep", stepping(four, keep=layers)[0])
    card.profile(record, "slice", "1x4x512 packed, keep 2, offload 30", stepping(four, keep=part(2), offload=part(30))[0])
    lean = {"park_inputs": True, "mlp_rows": 1024, "loss_rows": 256, "head_groups": 4, "host_embedding": True, "hold_weights": False}
    frozen = replace(frozen, embedding=frozen.embedding.cpu())
    run("slice", "1x4x512", "lean, embedding on the host", four, **lean)
    card.cap = 4.5
    run("slice", "1x4x512", "lean, a sequence at a time, 4.5 GiB", four, micro=4, **lean)
    card.cap = CAP
    for tokens in (32 * 1024, 48 * 1024):
        run("capped", f"1x{tokens}", "lean, embedding on the host", [tokens], steps=1, **lean)


def caps(options: argparse.Namespace) -> None:
    """Steps of 4 sequences as papertune trains them: planned for the free memory, dropout, deterministic."""
    import torch

    from papertune.train.fast.memory import Work

    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    record = Recorder("caps", options.out)
    frozen = our_engine(options.layers, random_matrix)[1]
    frozen = replace(frozen, embedding=frozen.embedding.cpu())  # each engine has its own on the card, which it may move to the host
    total = torch.cuda.get_device_properties(0).total_memory
    for cap in (5, 6, 7.2, 10, 16, 24):
        for length in (256, 512, 1024, 4096):
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.set_per_process_memory_fraction(cap * GIB / total)
            row: dict[str, Any] = {"cap_gib": cap, "shape": f"4x{length}"}
            foreseen = 0.0
            try:
                whole = replace(frozen, embedding=frozen.embedding.cuda())
                engine = our_engine(options.layers, random_matrix, frozen=whole, dropout=0.05, memory=round(cap * GIB))[0]
                whole = None
                items, replans = sequences([length] * 4), 0
                while True:
                    parts = engine.micro_batches(items, 1)
                    try:
                        for part in parts:
                            resident = torch.cuda.memory_allocated() - engine.budget.held
                            engine.accumulate(part, 1e-3, 0)
                            tokens = sum(len(item.ids) for item in part)
                            peak = engine.budget.peak(engine.plan, Work(tokens, sum(item.targets for item in part), len(part)))
                            foreseen = max(foreseen, (resident + peak) / GIB)
                        torch.cuda.synchronize()
                        break
                    except torch.OutOfMemoryError:
                        if not engine.economise():
                            raise
                    replans, foreseen = replans + 1, 0.0
                    for parameter in engine.parameters.values():
                        parameter.grad = None
                row |= {"micro_batches": len(parts), "replans": replans, "plan": str(engine.plan), "foreseen_gib": round(foreseen, 3)}
            except torch.OutOfMemoryError as error:
                row["out_of_memory"] = str(error)[:90]
            engine = None
            row |= {"alloc_gib": round(torch.cuda.max_memory_allocated() / GIB, 3), "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3)}
            record.write(**row)


if __name__ == "__main__":
    main()
