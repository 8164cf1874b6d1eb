"""What the benchmarks of a training step share: the card or a slice of it, rows of results, random weights of Mistral 7B's shapes."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from results import commit

GIB = 1 << 30
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


class Recorder:
    """Appends rows to the results file, each with commit, GPU and versions."""

    def __init__(self, part: str, out: Path) -> None:
        import bitsandbytes
        import torch
        import triton

        versions = {m.__name__: m.__version__ for m in (torch, triton, bitsandbytes)}
        self._always = {"bench": "step", "part": part, "commit": commit(), "gpu": torch.cuda.get_device_name(), "versions": versions}
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
        self.cap = CAP
        # Weights that are multiplied: layers and head.
        self.weights = layers * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) + 4096 * 32000

    @contextmanager
    def on(self, card: str) -> Iterator[None]:
        import torch

        if card == "whole":
            yield
            return
        if card == "slice" and self._slice is None:
            self._slice = part_of_the_card(SLICE)
        stream = self._slice[0] if card == "slice" else torch.cuda.current_stream()
        limit, told = round(self.cap * GIB), torch.cuda.mem_get_info
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
        torch.cuda.mem_get_info = lambda *_: (max(0, limit - torch.cuda.memory_reserved()), limit)  # by it Unsloth cuts its loss
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                yield
            torch.cuda.synchronize()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.mem_get_info = told

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

    def longest(self, record: Recorder, what: str, stepping: Callable[[int], Callable[[], object]], tokens: int) -> None:
        """The longest sequence whose steps fit 7.2 GiB, to 256 tokens, looked for from ``tokens`` upwards, so that no step follows one
        that failed: what a stack keeps from step to step may not survive that."""
        import torch

        first, fits = tokens, 0
        with self.on("capped"):
            try:
                while True:
                    gc.collect()
                    torch.cuda.empty_cache()
                    step = stepping(tokens)
                    for _ in range(2):
                        step()
                    torch.cuda.synchronize()
                    print(f"{what}: {tokens} tokens fit", flush=True)
                    fits, tokens = tokens, tokens + 256
            except RuntimeError as problem:  # a library's own allocations do not fail as torch's do
                if "out of memory" not in str(problem).lower():
                    raise
        record.write(card="capped", what=what, first=first, longest=fits or None, too_long=tokens)

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


def part_of_the_card(multiprocessors: int) -> tuple[Any, Any]:
    """A stream that runs on so many multiprocessors, and its green context, which must stay alive.

    The driver lets such a stream not wait for the default one, on which bitsandbytes' quantisers and optimisers are launched whatever torch's
    current stream is. From here on its optimisers wait for the current stream and it for them. Quantise on the default stream.
    """
    import torch
    from bitsandbytes import functional
    from cuda.bindings import driver

    functional.optimizer_update_8bit_blockwise = _between_streams(functional.optimizer_update_8bit_blockwise)

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


def _between_streams(work: Callable[..., None]) -> Callable[..., None]:
    """What launches on the default stream, after what the current stream has been given and before what comes next."""
    import torch

    def ordered(*arguments: Any, **named: Any) -> None:
        current, default = torch.cuda.current_stream(), torch.cuda.default_stream()
        default.wait_stream(current)
        work(*arguments, **named)
        current.wait_stream(default)

    return ordered


def random_matrix(name: str, rows: int, columns: int) -> Any:
    """Normal with deviation 0.02; the same for the same name."""
    import zlib

    import torch

    generator = torch.Generator("cuda").manual_seed(zlib.crc32(name.encode()))
    return torch.randn(rows, columns, generator=generator, device="cuda", dtype=torch.bfloat16) * 0.02


def sequences(lengths: list[int]) -> list[Any]:
    import numpy as np

    from papertune.train.batches import TokenSequence

    random = np.random.default_rng(0)
    return [TokenSequence(random.integers(3, 32000, n).astype(np.int32), 1, n) for n in lengths]
