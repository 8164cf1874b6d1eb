"""Do the fast and the reference engine train alike? 200 steps of each on the same text, and how far their losses are from one another.

    python benchmarks/bench_curve.py --model ../shared/models/seedling --work /scratch/curve [--steps 200] [--record]

The text is that of the real papers (``corpus.py``), or what an earlier call has left in --work. Without dropout, so that nothing but
rounding tells the engines apart; how far that goes is told by the reference engine with one, two and four sequences at a time, each against
each. A quarter of an hour on two cores. On a GPU, which so small a model leaves idle, all run side by side, and with them the reference
engine on the CPU: the same NF4 numbers in float32, which tells whose 16 bits went astray.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

from bench_team import steps_of
from corpus import real_papers
from results import record

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if not (options.work / "val.jsonl").exists():
        write_examples(options.work, 4 * options.steps, options.tokens)
    where = device()
    with ThreadPoolExecutor(1 if where == "CPU" else 5) as pool:
        runs = [pool.submit(losses, options, engine, size) for engine, size in (("fast", 1), ("reference", 1), ("reference", 2), ("reference", 4))]
        float32 = None if where == "CPU" else pool.submit(losses, options, "reference", 1, on_cpu=True)
        fast, *references = (run.result() for run in runs)
    reference, apart = references[0], distances(fast, references[0])
    noise = [distances(one, other) for one, other in combinations(references, 2)]
    row = {
        "model": Path(options.model).name,
        "device": where,
        "steps": options.steps,
        "tokens": options.tokens,
        "first": [round(curve[0], 5) for curve in (fast, reference)],
        "mean_of_the_last_fifty": [round(statistics.mean(curve[-50:]), 5) for curve in (fast, reference)],
        "largest_difference": round(max(apart), 6),
        "mean_difference": round(statistics.mean(apart), 6),
        "largest_of_the_reference_cut_otherwise": [round(max(pair), 6) for pair in noise],
        "mean_of_the_reference_cut_otherwise": [round(statistics.mean(pair), 6) for pair in noise],
    }
    if float32 is not None:
        strays = [distances(curve, float32.result()) for curve in (fast, *references)]
        row["largest_from_float32"] = [round(max(stray), 6) for stray in strays]  # the fast engine's, then the references'
        row["mean_from_float32"] = [round(statistics.mean(stray), 6) for stray in strays]
    print(json.dumps(row))
    if options.record:
        record("curve", row, "torch", quiet=True)


def distances(one: list[float], other: list[float]) -> list[float]:
    return [abs(a - b) for a, b in zip(one, other, strict=True)]


def write_examples(work: Path, count: int, tokens: int) -> None:
    """So many pieces of papers of about so many tokens, each paper's one after another; the last papers are held out."""
    work.mkdir(parents=True, exist_ok=True)
    papers = list(real_papers().items())
    for name, some in (("train", papers[:-5]), ("val", papers[-5:])):
        size = 3 * tokens  # letters
        pieces = [(paper, text[first : first + size]) for paper, text in some for first in range(0, len(text) - size, size)]
        step = max(1, len(pieces) // count)
        lines = [{"id": f"{paper}-{i}", "paper": paper, "text": text} for i, (paper, text) in enumerate(pieces[::step][:count])]
        (work / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def losses(options: argparse.Namespace, engine: str, size: int, on_cpu: bool = False) -> list[float]:
    """Of each step of four sequences, ``size`` at a time. All see the same examples in the same order."""
    output = options.work / f"{engine}-{size}{'-cpu' if on_cpu else ''}"
    flags = {"model": options.model, "train-file": options.work / "train.jsonl", "val-file": options.work / "val.jsonl", "output-dir": output}
    flags |= {"engine": engine, "lora-dropout": 0.0, "max-steps": options.steps, "epochs": 9, "max-seq-len": 2 * options.tokens}
    flags |= {"lr": 1e-3, "save-steps": 10_000, "sample-tokens": 0, "batch-size": size, "grad-accum": 4 // size}
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})
    words = [f"--{name}={value}" for name, value in flags.items()]
    subprocess.run([sys.executable, str(ROOT / "finetune" / "finetune.py"), *words], check=True, env=environment)
    return [line["loss"] for line in steps_of(output)]


if __name__ == "__main__":
    main()
