"""Training on several GPUs: how much faster is it, is it the same, and does it go on with another number of them?

    python benchmarks/bench_team.py --model /scratch/mistral --work /scratch/team [--processes 2] [--steps 24] [--grad-accum 4 16] [--record]

For each effective batch the same run on one GPU and, through torchrun, on all: tokens a second (median of the steps after the third) and the
largest difference of a loss. Then a run that is killed on all, killed on one, and ends on all: one process is ended with SIGKILL each time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from bench_real_size import write_dataset
from results import commit, record

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--grad-accum", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--max-seq-len", type=int, default=512)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    write_dataset(options.work / "dataset", options.steps * max(options.grad_accum), options.max_seq_len)
    for row in measured(options):
        row |= {"benchmark": "team", "commit": commit(), "machine": machine(), "engine": options.engine, "max_seq_len": options.max_seq_len}
        print(json.dumps(row), flush=True)
        if options.record:
            record("team", row, quiet=True)


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for accumulated in options.grad_accum:
        yield compare(options, accumulated)
    yield go_on(options, options.grad_accum[0])


def compare(options: argparse.Namespace, accumulated: int) -> dict[str, Any]:
    speeds, traces = [], []
    for processes in (1, options.processes):
        output = fresh(options.work / f"compare-{accumulated}-{processes}")
        finish(start(options, output, accumulated, processes))
        steps = steps_of(output)
        speeds.append(statistics.median(line["tokens_per_second"] for line in steps[3:]))
        traces.append([line["loss"] for line in steps])
    return {
        "what": f"1x{accumulated}",
        "processes": options.processes,
        "tokens_per_second": speeds,
        "speedup": round(speeds[1] / speeds[0], 3),
        "largest_loss_difference": max(abs(one - other) for one, other in zip(*traces, strict=True)),
    }


def go_on(options: argparse.Namespace, accumulated: int) -> dict[str, Any]:
    output = fresh(options.work / "go-on")
    for processes, step in ((options.processes, options.steps // 3), (1, 2 * options.steps // 3)):
        running = start(options, output, accumulated, processes)
        while running.poll() is None and (not (output / "events.jsonl").exists() or f'"step", "step": {step},' not in events(output)):
            time.sleep(0.02)
        children = [child for child in psutil.Process(running.pid).children() if processes > 1] or [psutil.Process(running.pid)]
        children[-1].send_signal(signal.SIGKILL)
        running.wait()
    finish(start(options, output, accumulated, options.processes))
    whole = [line["loss"] for line in steps_of(options.work / f"compare-{accumulated}-1")]
    ours = [line["loss"] for line in steps_of(output)]
    difference = max(abs(one - other) for one, other in zip(whole, ours, strict=True))
    return {"what": f"{options.processes} → 1 → {options.processes}", "largest_loss_difference": difference}


def start(options: argparse.Namespace, output: Path, accumulated: int, processes: int) -> subprocess.Popen[bytes]:
    data = options.work / "dataset"
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    flags = {"model": options.model, "train-file": data / "train.jsonl", "val-file": data / "val.jsonl", "output-dir": output}
    flags |= {"grad-accum": accumulated, "max-steps": options.steps, "max-seq-len": options.max_seq_len, "save-steps": 4, "engine": options.engine}
    words = [f"--{name}={value}" for name, value in flags.items()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([*launcher, str(ROOT / "finetune" / "finetune.py"), *words, "--sample-tokens=0"], env=environment)


def finish(running: subprocess.Popen[bytes]) -> None:
    if running.wait():
        raise SystemExit(f"training ended with exit status {running.returncode}")


def steps_of(output: Path) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, events(output).splitlines()) if line["event"] == "step"]


def events(output: Path) -> str:
    return (output / "events.jsonl").read_text()


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def machine() -> str:
    import torch

    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "2 cores"


if __name__ == "__main__":
    main()
