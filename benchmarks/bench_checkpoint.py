"""What a checkpoint of a 7B adapter costs the training loop: written by the loop itself, and in the background.

    python benchmarks/bench_checkpoint.py --work /scratch/checkpoint [--record]

Weights and optimiser state have the shapes of Mistral 7B at rank 16 (250 MB) and lie in host memory, or on the GPU where there is one. The
loop beside it does what training does on the host: short pieces of Python, each of which calls into torch. ``held`` is how long ``save``
keeps the loop, ``slowed`` how much longer the loop's work takes until the checkpoint is on disk; medians of five.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from results import commit, record

from papertune import adapter
from papertune.train.checkpoint import LoopState, write_checkpoint
from papertune.train.keeping import Keeper

LAYERS, RANK, RUNS = 32, 16, 5
SHAPES = {"q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096), "o_proj": (4096, 4096)}
SHAPES |= {"gate_proj": (14336, 4096), "up_proj": (14336, 4096), "down_proj": (4096, 14336)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parameters, optimizer = state_of_a_7b_adapter(device)
    engine: Any = SimpleNamespace(parameters=parameters)
    state = LoopState()
    told: list[dict[str, Any]] = []
    keeper = Keeper(options.work, options.work / "best", engine, optimizer, state, {}, write_adapter, lambda *_, **figures: told.append(figures))
    pace = loops_in(2.0)
    itself, held, slowed, seconds = [], [], [], []
    for run in range(RUNS + 1):  # the first one makes buffers and files
        state.step += 1
        began = time.monotonic()
        tensors, rest = optimizer.state()
        host = {name: parameter.detach().cpu().numpy().copy() for name, parameter in parameters.items()}
        moments = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        write_checkpoint(options.work, state, {}, lambda folder, host=host: write_adapter(folder, host, state), moments, rest)
        written = time.monotonic() - began
        state.step += 1
        keeper.save()
        began, done = time.monotonic(), 0
        while len(told) <= run:
            done += loops_in(0.02)
        beside = time.monotonic() - began
        keeper.check()
        if run:
            itself.append(written)
            held.append(told[-1]["held"])
            slowed.append(beside - done / (pace / 2.0))
            seconds.append(told[-1]["seconds"])
    keeper.close()
    shutil.rmtree(options.work)
    row = {
        "benchmark": "checkpoint",
        "commit": commit(),
        "machine": torch.cuda.get_device_name() if device == "cuda" else "2 cores",
        "versions": {"torch": torch.__version__},
        "bytes": sum(p.nbytes for p in parameters.values()) + sum(t.nbytes for t in optimizer.state()[0].values()),
        "by_the_loop_s": round(statistics.median(itself), 3),
        "held_s": round(statistics.median(held), 4),
        "slowed_s": round(statistics.median(slowed), 4),
        "on_disk_after_s": round(statistics.median(seconds), 3),
    }
    print(json.dumps(row))
    if options.record:
        record("checkpoint", row, quiet=True)


def state_of_a_7b_adapter(device: str) -> tuple[dict[str, torch.nn.Parameter], Any]:
    """LoRA weights by name, and what stands for their optimiser: two moments in 8 bits with a scale a block of 256, and shared maps."""
    parameters, tensors = {}, {}
    maps = [torch.randn(256, device=device) for _ in range(2)]
    for layer in range(LAYERS):
        for name, (rows, columns) in SHAPES.items():
            for half, shape in (("A", (RANK, columns)), ("B", (rows, RANK))):
                parameters[f"base_model.model.model.layers.{layer}.{name}.lora_{half}.weight"] = torch.nn.Parameter(torch.randn(shape, device=device))
    for i, parameter in enumerate(parameters.values()):
        for k in (1, 2):
            tensors[f"{i}.state{k}"] = torch.randint(0, 256, parameter.shape, dtype=torch.uint8, device=device)
            tensors[f"{i}.absmax{k}"] = torch.randn(-(-parameter.numel() // 256), device=device)
            tensors[f"{i}.qmap{k}"] = maps[k - 1]
    return parameters, SimpleNamespace(state=lambda: (tensors, {}))


def write_adapter(folder: Path, tensors: Any, _state: LoopState) -> None:
    adapter.write_adapter(folder, tensors, base_model="x", rank=RANK, alpha=32, dropout=0, target_modules=tuple(SHAPES), provenance={})


def loops_in(seconds: float) -> int:
    """How many pieces of a training loop's host work are done in this time."""
    x, ended, count = torch.randn(64, 64), time.monotonic() + seconds, 0
    while time.monotonic() < ended:
        for i in range(20):
            x = (x * 1.0001).clamp(-1, 1) if i % 2 else x.t()
        count += 1
    return count


if __name__ == "__main__":
    main()
