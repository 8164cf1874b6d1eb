"""Training a 7B model on an 8 GB card: does it fit, how fast is it, and does it survive kill -9?

Runs papertune's training step with the specification's defaults in a process whose GPU allocator may not go above ``--cap-gib``; kills it
with SIGKILL some steps after a checkpoint; resumes; and compares the losses of the steps that were trained twice. Any base model will do;
``make_random_mistral.py`` writes one of the real size.

    python benchmarks/bench_real_size.py --model /scratch/mistral --work /scratch/real-size [--cap-gib 7.2] [--cap-gib-after 6] [--steps 40] …

Prints one row of JSON: peak GPU memory (GiB allocated and reserved), peak resident memory, seconds to load, tokens a second (median of
the steps), and the largest difference of a loss that was computed twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GIB = 1 << 30
SAVE_EVERY = 10  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder for data, checkpoints and logs")
    parser.add_argument("--cap-gib", type=float, default=7.2, help="what the GPU's allocator may hold")
    parser.add_argument("--cap-gib-after", type=float, help="and after the kill, if another")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--kill-at", type=int, default=27, help="SIGKILL after this step")
    parser.add_argument("--max-seq-len", type=int, default=512)
    parser.add_argument("--only-train", action="store_true", help="train in this process: how the script calls itself")
    options = parser.parse_args()
    if options.only_train:
        train(options)
        return
    write_dataset(options.work / "dataset", options.steps * 4, options.max_seq_len)
    after = options.cap_gib_after or options.cap_gib
    killed = {line["step"]: line for line in lines_of_training(options.cap_gib, kill_at=options.kill_at)}
    began = time.monotonic()
    resumed = list(lines_of_training(after, kill_at=None))
    steps = {line["step"]: line for line in resumed if line["event"] == "step"}
    end = resumed[-1]
    again = [step for step in steps if step in killed]
    row = {
        "benchmark": "real-size",
        "model": options.model,
        "cap_gib": options.cap_gib,
        "cap_gib_after": after,
        "steps": options.steps,
        "max_seq_len": options.max_seq_len,
        **{key: end[key] for key in ("device", "torch", "peak_allocated_gib", "peak_reserved_gib", "peak_resident_gib", "load_seconds")},
        "tokens_per_second": round(statistics.median(line["tokens_per_second"] for line in steps.values()), 1),
        "seconds_after_the_kill": round(time.monotonic() - began, 1),
        "killed_after_step": options.kill_at,
        "steps_trained_twice": len(again),
        "largest_difference": max((abs(killed[step]["loss"] - steps[step]["loss"]) for step in again), default=None),
    }
    print(json.dumps(row))


def lines_of_training(cap_gib: float, *, kill_at: int | None) -> Iterator[dict[str, Any]]:
    """What a training process prints, a JSON object a line; the process is killed once it has printed the step ``kill_at``."""
    command = [sys.executable, __file__, *sys.argv[1:], "--cap-gib", str(cap_gib), "--only-train"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        for text in process.stdout:
            print(text, end="", file=sys.stderr)
            line = json.loads(text)
            yield line
            if kill_at is not None and line["event"] == "step" and line["step"] >= kill_at:
                process.kill()
                return
    if process.returncode != 0:
        raise SystemExit(f"training ended with exit status {process.returncode}")


def train(options: argparse.Namespace) -> None:
    import resource

    import torch

    from papertune.config import TrainConfig
    from papertune.errors import PapertuneError
    from papertune.events import Event, Notice, Started, Unit
    from papertune.train.stage import run

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.cap_gib * GIB / torch.cuda.get_device_properties(0).total_memory))
    output = options.work / "lora_output"
    began = time.monotonic()
    loaded = 0.0

    def on_event(event: Event) -> None:
        nonlocal loaded
        if isinstance(event, Started):
            loaded = time.monotonic() - began
        if isinstance(event, Unit) and event.figures:
            last = (output / "events.jsonl").read_text().splitlines()
            step = next(json.loads(line) for line in reversed(last) if '"event": "step"' in line)
            print(json.dumps(step))
        if isinstance(event, Notice):
            print(json.dumps({"event": "notice", "step": 0, "text": event.text}))

    config = TrainConfig(
        model=options.model,
        train_file=options.work / "dataset" / "train.jsonl",
        val_file=options.work / "dataset" / "val.jsonl",
        output_dir=output,
        max_steps=options.steps,
        save_steps=SAVE_EVERY,
        max_seq_len=options.max_seq_len,
    )
    try:
        run(config, on_event=on_event)
    except PapertuneError as error:
        print(json.dumps({"event": "error", "step": 0, "id": error.id, "what": str(error)}))
        raise SystemExit(error.exit_code) from None
    cuda = torch.cuda.is_available()
    end = {
        "event": "end",
        "step": options.steps,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / GIB, 3) if cuda else 0,
        "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 3) if cuda else 0,
        "peak_resident_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 3),
        "load_seconds": round(loaded, 1),
    }
    print(json.dumps(end))


def write_dataset(folder: Path, examples: int, tokens: int = 512) -> None:
    """Examples of made-up words, nearly ``tokens`` long (2.65 characters a token), eight to a paper."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    syllables = [c + v for c in "bcdfglmnprstv" for v in ("a", "e", "i", "o", "u", "an", "er", "in")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(4000)]
    for name, count in (("train", examples), ("val", 8)):
        with (folder / f"{name}.jsonl").open("w") as file:
            for i in range(count):
                text = " ".join(rng.choices(words, k=tokens))[: int(2.65 * tokens)]
                file.write(json.dumps({"id": f"{name}-{i}", "paper": f"{name}-{i // 8}", "text": text}) + "\n")


if __name__ == "__main__":
    main()
