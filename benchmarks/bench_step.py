"""One optimiser step of QLoRA on Mistral 7B: transformers + PEFT + bitsandbytes against the fast engine, side by side on one GPU.

    PYTHONPATH=src python3 benchmarks/bench_step.py --out step.jsonl              everything, under 6 minutes
    PYTHONPATH=src python3 benchmarks/bench_step.py --layers 4 --out step.jsonl   a look at it, under 2

Needs a CUDA GPU, torch, triton, transformers, peft, bitsandbytes; no weights: they are random, of Mistral 7B's shapes. Each part runs in a
process of its own, so that its memory figures are its own:

check   4 layers: how far LoRA gradients are from float32 arithmetic on the same dequantised weights, for HF and for every plan of ours;
        dequantisation against bitsandbytes, bit for bit, and its bandwidth
hf      the usual stack, gradient checkpointing as PEFT prepares it
fast    the engine under several plans, in 7.2 GiB on the slice; where its time goes, by kernel

"slice" is 8 of the card's multiprocessors (a CUDA green context), about the matrix rate of an RTX 3070 but with more memory bandwidth a
multiprocessor: a stand-in, not that card. Times are medians of whole steps (forward, backward, clipping, 8-bit AdamW), synchronised.
MFU counts 6 operations a weight and token against 790 TFLOP/s, what an H100 or H200 reached on a large bf16 product.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # wanted by deterministic algorithms

GIB = 1 << 30
LIMIT = 240  # seconds a part may take
SLICE, CAP = 8, 7.2  # multiprocessors; GiB of an RTX 3070 that a desktop leaves free
RATE = 790e12  # bf16 operations a second
RAGGED = [120, 180, 220, 300]
CONFIG = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 32000, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 32768, "sliding_window": None, "tie_word_embeddings": False, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
RANK, ALPHA = 16, 32.0
CATEGORIES = (
    ("dequantise", ("dequant",)), ("attention", ("flash", "fmha")), ("optimiser", ("optimizer", "adam")),
    ("products", ("gemm", "nvjet", "cutlass", "splitk", "gemv")), ("copies", ("memcpy", "memset")),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--parts", default="check,hf,fast")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results.jsonl"))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        {"check": check, "hf": hf, "fast": fast}[options.part](options)
        return
    began = options.out.stat().st_size if options.out.exists() else 0
    for part in options.parts.split(","):
        command = [sys.executable, __file__, "--part", part, "--layers", str(options.layers), "--out", str(options.out)]
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


class Recorder:
    """Appends rows to the results file, each with commit, GPU and versions."""

    def __init__(self, part: str, out: Path) -> None:
        import bitsandbytes
        import torch
        import triton

        git = shutil.which("git")
        commit = subprocess.run([git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip() if git else ""
        versions = {m.__name__: m.__version__ for m in (torch, triton, bitsandbytes)}
        self._always = {"bench": "step", "part": part, "commit": commit, "gpu": torch.cuda.get_device_name(), "versions": versions}
        self._out = out
        out.parent.mkdir(parents=True, exist_ok=True)

    def write(self, **figures: Any) -> None:
        print(json.dumps(figures), flush=True)
        with self._out.open("a") as file:
            file.write(json.dumps({**self._always, **figures}) + "\n")


class Card:
    """The whole GPU ("whole"), the same with 7.2 GiB of its memory ("capped"), or a slice of its multiprocessors with as much ("slice")."""

    def __init__(self, layers: int) -> None:
        self._slice: Any = None
        # Weights that are multiplied: layers and head.
        self.weights = layers * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) + 4096 * 32000

    @contextmanager
    def on(self, card: str) -> Iterator[None]:
        import torch

        if card == "whole":
            yield
            return
        if card == "slice" and self._slice is None:
            self._slice = _slice(SLICE)
        stream = self._slice[0] if card == "slice" else torch.cuda.current_stream()
        torch.cuda.set_per_process_memory_fraction(CAP * GIB / torch.cuda.get_device_properties(0).total_memory)
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                yield
            torch.cuda.synchronize()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def measure(
        self, record: Recorder, card: str, shape: str, what: str, step: Callable[[], object], tokens: int, *, steps: int, warm: int = 1,
        more: Callable[[], dict[str, Any]] = dict,
    ) -> None:  # fmt: skip
        """Times whole steps and appends a row; ``more`` adds figures to it afterwards."""
        import torch

        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        times = []
        try:
            with self.on(card):
                for i in range(warm + steps):
                    began = time.perf_counter()
                    step()
                    torch.cuda.synchronize()
                    if i >= warm:
                        times.append(time.perf_counter() - began)
        except torch.OutOfMemoryError as error:
            record.write(card=card, shape=shape, what=what, out_of_memory=str(error)[:90], **more())
            return
        median = statistics.median(times)
        record.write(
            card=card, shape=shape, what=what, s_per_step=round(median, 4), tokens_per_s=round(tokens / median, 1),
            mfu=round(6 * self.weights * tokens / median / RATE, 4), spread=round((max(times) - min(times)) / median, 3),
            alloc_gib=round(torch.cuda.max_memory_allocated() / GIB, 3), reserved_gib=round(torch.cuda.max_memory_reserved() / GIB, 3), **more(),
        )  # fmt: skip

    def profile(self, record: Recorder, card: str, what: str, step: Callable[[], object]) -> None:
        """Kernels a step and milliseconds by kind."""
        import torch
        from torch.profiler import ProfilerActivity

        spent: Counter[str] = Counter()
        single: Counter[str] = Counter()
        count = 0
        gc.collect()
        torch.cuda.empty_cache()
        with self.on(card):
            step()
            with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as trace:
                step()
                torch.cuda.synchronize()
        for event in trace.profiler.kineto_results.events():
            if event.device_type() != torch.autograd.DeviceType.CUDA:
                continue
            name, ms = event.name(), event.duration_ns() / 1e6
            kind = next((kind for kind, words in CATEGORIES if any(word in name.lower() for word in words)), "")
            own = next((word for word in ("rms_norm", "rope", "swiglu", "dropout", "cross_entropy") if word in name), "elementwise")
            spent[kind or own] += ms
            single[name[:100]] += ms
            count += 1
        record.write(profile=what, card=card, kernels=count, ms={kind: round(ms, 1) for kind, ms in spent.most_common()})
        for name, ms in single.most_common(16):
            print(f"   {ms:9.2f} ms  {name}", flush=True)


def _slice(multiprocessors: int) -> tuple[Any, Any]:
    """A stream that runs on so many multiprocessors, and its green context, which must stay alive."""
    import torch
    from cuda.bindings import driver

    def ok(answer: Any) -> Any:
        assert int(answer[0]) == 0, answer[0]
        return answer[1] if len(answer) == 2 else answer[1:]

    torch.zeros(1, device="cuda")
    device = ok(driver.cuDeviceGet(0))
    whole = ok(driver.cuDeviceGetDevResource(device, driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM))
    group = ok(driver.cuDevSmResourceSplitByCount(1, whole, 0, multiprocessors))[0][0]
    assert group.sm.smCount == multiprocessors, group.sm.smCount
    description = ok(driver.cuDevResourceGenerateDesc([group], 1))
    context = ok(driver.cuGreenCtxCreate(description, device, driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM))
    stream = ok(driver.cuGreenCtxStreamCreate(context, 1, 0))
    return torch.cuda.ExternalStream(int(stream)), context


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
    from papertune.train.fast.engine import FastEngine, Frozen, FrozenLayer
    from papertune.train.fast.flat import GROUPS, sizes
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
            rows.append(FrozenLayer(ones, ones, [nf4.stack([small[name] for name in names]) for names in GROUPS]))
        frozen = Frozen(matrix("model.embed_tokens", shape.vocabulary, shape.hidden), matrix("lm_head", shape.vocabulary, shape.hidden), ones, rows)
    device = Device("cuda", torch.bfloat16, torch.cuda.get_device_name())
    lora: dict[str, Any] = {"rank": RANK, "alpha": ALPHA, "dropout": dropout, "targets": SEVEN_PROJECTIONS}
    return FastEngine(base, frozen, device, **lora, plan=None if memory else Plan(**plan), memory=memory), frozen


def random_matrix(name: str, rows: int, columns: int) -> Any:
    """Normal with deviation 0.02; the same for the same name."""
    import zlib

    import torch

    generator = torch.Generator("cuda").manual_seed(zlib.crc32(name.encode()))
    return torch.randn(rows, columns, generator=generator, device="cuda", dtype=torch.bfloat16) * 0.02


def hf_model(layers: int, *, window: int = 0, dtype: Any = None, matrix: Any = random_matrix, four_bit: bool = True) -> Any:
    """The usual stack's model with a LoRA adapter, its base in NF4 (or, not ``four_bit``, as ``matrix`` gives it)."""
    import bitsandbytes
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import MistralConfig, MistralForCausalLM

    from papertune.config import SEVEN_PROJECTIONS

    dtype = dtype or torch.bfloat16
    config = MistralConfig(**{**CONFIG, "num_hidden_layers": layers, "sliding_window": window or None})
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        model = MistralForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for name, module in list(model.named_modules()):
            if not isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                continue
            weight = matrix(name, *module.weight.shape)
            parent, _, last = name.rpartition(".")
            if four_bit and last in SEVEN_PROJECTIONS:
                format_: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}
                wide, high = module.in_features, module.out_features
                small = bitsandbytes.nn.Linear4bit(wide, high, bias=False, compute_dtype=dtype, device="meta", **format_)
                small.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, **format_).to("cuda")
                setattr(model.get_submodule(parent), last, small)
            else:
                module.weight.copy_(weight)
    if four_bit:
        model.is_loaded_in_4bit = True
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False})
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=list(SEVEN_PROJECTIONS))
    model = get_peft_model(model, lora)
    model.train()
    gc.collect()
    torch.cuda.empty_cache()
    return model


def sequences(lengths: list[int]) -> list[Any]:
    import numpy as np

    from papertune.train.batches import TokenSequence

    random = np.random.default_rng(0)
    return [TokenSequence(random.integers(3, 32000, n).astype(np.int32), 1, n) for n in lengths]


# ---------------------------------------------------------------------------------------------- parts


def check(options: argparse.Namespace) -> None:
    import torch

    record = Recorder("check", options.out)
    torch.backends.cuda.matmul.allow_tf32 = False
    _check_dequantisation(record)
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

    exact_loss, exact = theirs(hf_model(layers, window=window, dtype=torch.float32, matrix=dequantised, four_bit=False), half=False)
    hf_loss, usual = theirs(hf_model(layers, window=window), half=True)

    def distance(gradients: dict[str, Any]) -> float:
        away = sum(float((gradients[name].float() - g).double().square().sum()) for name, g in exact.items())
        return round((away / sum(float(g.double().square().sum()) for g in exact.values())) ** 0.5, 4)

    record.write(
        gradient_error={"hf": distance(usual), **{name: distance(g) for name, (_, g) in ours.items()}}, window=window,
        loss={"float32": round(exact_loss, 5), "hf": round(hf_loss, 5), **{name: round(loss, 5) for name, (loss, _) in ours.items()}},
    )  # fmt: skip


def hf(options: argparse.Namespace) -> None:
    import torch
    from bitsandbytes.optim import AdamW8bit

    record, card = Recorder("hf", options.out), Card(options.layers)
    model = hf_model(options.layers)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW8bit(trained, lr=2e-4)

    def stepping(batches: list[Any]) -> Callable[[], None]:
        def step() -> None:
            for ids in batches:
                with torch.autocast("cuda", torch.bfloat16):
                    loss = model(input_ids=ids, labels=ids).loss / len(batches)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    def tokens(*size: int) -> Any:
        return torch.randint(3, 32000, size, device="cuda")

    default, single = stepping([tokens(1, 512) for _ in range(4)]), stepping([tokens(4, 512)])
    ragged = stepping([tokens(1, n) for n in RAGGED])
    card.measure(record, "whole", "1x4x512", "micro-batches of 1", default, 2048, steps=5, warm=2)
    card.measure(record, "whole", "1x4x512", "one micro-batch of 4", single, 2048, steps=5, warm=2)
    card.measure(record, "whole", "ragged", "micro-batches of 1", ragged, sum(RAGGED), steps=4)
    card.measure(record, "slice", "1x4x512", "one micro-batch of 4", single, 2048, steps=2)
    card.measure(record, "slice", "ragged", "micro-batches of 1", ragged, sum(RAGGED), steps=2)
    card.measure(record, "slice", "1x4x512", "micro-batches of 1", default, 2048, steps=3)


def fast(options: argparse.Namespace) -> None:
    import torch
    from bitsandbytes.optim import AdamW8bit

    from papertune.train.fast.budget import Work

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
            resident = torch.cuda.memory_allocated()  # between steps
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

    run("whole", "1x4x512", "packed, keep", four, steps=5, warm=2, keep=layers)
    run("whole", "1x4x512", "packed, recompute", four, steps=5, warm=2)
    run("whole", "1x4x512", "packed, keep, dropout 0.05", four, steps=5, warm=2, keep=layers, dropout=0.05)
    run("whole", "1x4x512", "4 micro-batches, keep", four, steps=5, warm=2, micro=4, keep=layers)
    run("whole", "ragged", "packed, keep", RAGGED, steps=5, warm=2, keep=layers)
    run("whole", "16x512", "packed, recompute", [512] * 16, steps=4)
    run("whole", "16x512", "packed, keep", [512] * 16, steps=4, keep=layers)
    run("slice", "1x4x512", "packed, recompute", four, steps=2)
    run("slice", "1x4x512", "packed, keep 2, offload 30", four, steps=2, keep=part(2), offload=part(30))
    run("slice", "1x4x512", "packed, keep 6, offload 26", four, steps=2, keep=part(6), offload=part(26))
    run("slice", "1x4x512", "packed, keep 6, recompute 26", four, steps=2, keep=part(6))
    run("slice", "1x4x512", "packed, keep 2, offload 30, dropout 0.05", four, steps=2, keep=part(2), offload=part(30), dropout=0.05)
    run("slice", "ragged", "packed, recompute", RAGGED, steps=2)
    run("slice", "ragged", "packed, keep 16, recompute 16", RAGGED, steps=2, keep=part(16))
    run("slice", "ragged", "packed, keep 16, offload 16", RAGGED, steps=2, keep=part(16), offload=part(16))
    cap = round(CAP * GIB)
    run("slice", "1x4x512", "packed, planned by itself", four, steps=2, memory=cap)
    run("slice", "ragged", "packed, planned by itself", RAGGED, steps=2, memory=cap)
    torch.use_deterministic_algorithms(True)  # as papertune trains, so that a resumed run repeats an uninterrupted one
    torch.utils.deterministic.fill_uninitialized_memory = False
    run("whole", "1x4x512", "packed, keep, deterministic", four, steps=5, warm=2, keep=layers)
    run("slice", "1x4x512", "packed, keep 2, offload 30, determin.", four, steps=2, keep=part(2), offload=part(30))
    torch.use_deterministic_algorithms(False)
    card.profile(record, "whole", "1x4x512 packed, keep", stepping(four, keep=layers)[0])
    card.profile(record, "slice", "1x4x512 packed, keep 2, offload 30", stepping(four, keep=part(2), offload=part(30))[0])
    frozen = replace(frozen, embedding=frozen.embedding.cpu())
    for tokens in (30 * 1024, 32 * 1024):
        lean = {"park_inputs": True, "mlp_rows": 1024, "loss_rows": 256, "head_groups": 4, "host_embedding": True}
        run("capped", f"1x{tokens}", "lean, embedding on the host", [tokens], steps=1, **lean)


if __name__ == "__main__":
    main()
