"""Speed and memory of training on this machine, what a checkpoint costs, and how good the estimate was.

    python benchmarks/bench_train.py --work /scratch/train [--model tiny] [--steps 40] [--max-seq-len 512] [--engine auto] …

First a dry run, then the training it spoke of, each in its own process; ``left`` is what the bar says after 20 steps, and what it was.
With ``--multiprocessors 8`` both run on that part of the GPU (``bench_step.py``): a stand-in for a small card, which is what limits a laptop, not
how quickly its processor launches kernels.
Appends a row of JSON to ``benchmarks/results.jsonl`` with --record.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench_real_size import write_dataset
from results import commit, record

HERE = Path(__file__).parent
# The command with a limit on the GPU's memory; of training it prints what the bar said after 20 steps, and how long things took.
CAPPED = """
import json, sys, time
cap, multiprocessors, words = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
from papertune.train.inputs import set_up_allocator
set_up_allocator()  # before CUDA starts, which is here and not where training begins
import torch
if multiprocessors:
    from gpu_card import part_of_the_card
    part = part_of_the_card(multiprocessors)
    from papertune.train import engines
    open_engine = engines.open_engine
    def opened(*arguments, **named):
        with torch.cuda.stream(torch.cuda.default_stream()):  # where weights are quantised
            engine = open_engine(*arguments, **named)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # what is left of loading is the default stream's, and no other may use it
        return engine
    engines.open_engine = opened
    torch.cuda.set_stream(part[0])
if cap and torch.cuda.is_available():
    torch.cuda.set_per_process_memory_fraction(cap * 2**30 / torch.cuda.get_device_properties(0).total_memory)
from papertune import cli
from papertune.events import Started, Unit
told, began = {}, {}
real = cli.run_step
def run_step(config, sink):
    def on_event(event):
        if isinstance(event, Started) and event.title == "Training":
            began[0] = time.monotonic()
        if isinstance(event, Unit) and 0 in began and event.done == 20:
            began[20], told["left"] = time.monotonic(), event.left
        sink(event)
    report = real(config, on_event)
    ended = time.monotonic()
    told.update(seconds=round(ended - began[0], 2), left_was=round(ended - began[20], 2)) if 20 in began else None
    return report
cli.run_step = run_step
cli.papertune.main(words, standalone_mode=False)
print(json.dumps(told))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--max-seq-len", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--grad-accum", type=int, default=4)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--only-estimate", action="store_true")
    parser.add_argument("--cap-gib", type=float, default=0.0, help="what the GPU's allocator may hold, if not all")
    parser.add_argument("--multiprocessors", type=int, default=0, help="of the GPU that may be used, if not all")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    data = options.work / "dataset"
    write_dataset(data, options.steps * options.batch_size * options.grad_accum, options.max_seq_len)
    flags = [f"--{name}={getattr(options, name.replace('-', '_'))}" for name in ("model", "max-seq-len", "batch-size", "grad-accum", "engine")]
    files = [f"--train-file={data / 'train.jsonl'}", f"--val-file={data / 'val.jsonl'}", f"--output-dir={options.work / 'lora_output'}"]
    words = ["train", *flags, *files, f"--max-steps={options.steps}", "--save-steps=20"]
    command = [sys.executable, "-c", CAPPED, str(options.cap_gib), str(options.multiprocessors), *words]
    promised = dict(line.split(":", 1) for line in text_of([*command, "--dry-run"]).splitlines() if ":" in line)
    if options.only_estimate:
        print(json.dumps({"shape": " ".join(flags), **{key: value.strip() for key, value in promised.items()}}))
        return
    told = json.loads(text_of(command).splitlines()[-1])
    lines = [json.loads(line) for line in (options.work / "lora_output" / "events.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"][2:]  # the first ones warm up
    saves = [line for line in lines if line["event"] == "checkpoint"]
    row: dict[str, Any] = {
        "benchmark": "train",
        "commit": commit(),
        "machine": promised["Device"].strip() if "CPU" not in promised["Device"] else f"{os.cpu_count()} cores",
        "shape": " ".join(flags),
        "cap_gib": options.cap_gib,
        "multiprocessors": options.multiprocessors,
        "tokens_per_second": round(statistics.median(step["tokens_per_second"] for step in steps), 1),
        "promised_tokens_per_second": promised["Tokens a second"].strip(),
        "peak_gib": round(max(step["peak_memory"] for step in steps) / (1 << 30), 3),
        "promised_peak": promised.get("GPU memory", promised["Memory"]).strip(),
        "seconds_a_checkpoint": round(statistics.median(save["seconds"] for save in saves), 2),
        "seconds_held_by_a_checkpoint": round(statistics.median(save["held"] for save in saves), 3),
        "promised_disk": promised["Disk"].strip(),
        "plan": promised.get("Plan", "").strip(),
        "promised_time": promised["Time"].strip(),
        **told,
    }
    print(json.dumps(row))
    if options.record:
        record("train", row, quiet=True)


def text_of(command: list[str]) -> str:
    """What the command prints; its progress goes to this terminal."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent / "src"), str(HERE), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
