"""Does fine-tuning make a real model better at a real domain? The whole of it, measured on papers that it never saw.

    python -m benchmarks.bench_domain PAPERS SEEDLING OUT [--steps 141] [--lr 2e-3] [--share 0.1] [--only plain,replay,shuffled] [--record]

PAPERS holds ``pdf/`` with the 65 papers, SEEDLING a base model of 40 million parameters that has seen no such paper, with ``general_val.txt``.
The four scripts are run as a user would run them; whatever is finished under OUT is not done again.

    extraction      all 65 papers, the ten held-back ones into a folder of their own
    dataset         from the other 55; once more with a share of general text (``--replay``)
    fine-tuning     plain, with replay, and a control: the plain training examples with the words of each in any order
    evaluation      bits per byte on the ten, as extracted, and on general text; changes with 95 % intervals by paper

The general text is parted by document: the even ones may be replayed, the odd ones are measured, so nothing measured was trained on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record

SCRIPTS = Path(__file__).resolve().parents[1] / "finetune"
HELD_BACK = (
    *("PMC5324201", "PMC6281068", "PMC7052325", "PMC5301171", "PMC5454990"),
    *("PMC7065120", "PMC4945999", "PMC5696514", "PMC5497343", "PMC6093152"),
)
DOCUMENT = "\n\x1e\n"  # between the documents of the general text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", type=Path)
    parser.add_argument("seedling", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=141, help="of 4 sequences of up to 256 tokens")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--share", type=float, default=0.1, help="share of general text with replay")
    parser.add_argument("--only", default="plain,replay,shuffled")
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    args = parser.parse_args()
    out = args.out.resolve()
    extract(args.papers, out)
    part_general_text(args.seedling / "general_val.txt", out)
    for run in args.only.split(","):
        adapter = fine_tune(run, args, out)
        row = {"run": run, "steps": args.steps, "lr": args.lr, **({"share": args.share} if run == "replay" else {}), **evaluate(adapter, out)}
        if args.record:
            record("domain", row, "torch", "transformers", "peft", "bitsandbytes")
        else:
            print(json.dumps(row, indent=1), flush=True)


def extract(papers: Path, out: Path) -> None:
    """``OUT/held`` and ``OUT/text`` from copies of the PDFs in two folders, which never meet again."""
    for folder, wanted in (("held", True), ("text", False)):
        pdfs = out / "pdfs" / folder
        pdfs.mkdir(parents=True, exist_ok=True)
        for path in sorted((papers / "pdf").glob("*.pdf")):
            if (path.stem in HELD_BACK) == wanted and not (pdfs / path.name).exists():
                shutil.copyfile(path, pdfs / path.name)
        script("extract_text.py", "--input-dir", pdfs, "--output-dir", out / folder)


def part_general_text(path: Path, out: Path) -> None:
    documents = path.read_text(encoding="utf-8").split(DOCUMENT)
    for name, some in (("replay", documents[::2]), ("general", documents[1::2])):
        (out / f"{name}.txt").write_text(DOCUMENT.join(some), encoding="utf-8")


def fine_tune(run: str, args: argparse.Namespace, out: Path) -> Path:
    """The adapter of this run."""
    name = f"{run}-{args.share:g}" if run == "replay" else run
    data = out / "dataset" / ("plain" if run == "shuffled" else name)
    replay = ["--replay", out / "replay.txt", "--replay-share", args.share] if run == "replay" else []
    script("prepare_dataset.py", "--input-dir", out / "text", "--output-dir", data, "--max-tokens", 256, *replay)
    train_file = data / "train.jsonl"
    if run == "shuffled":
        train_file = out / "dataset" / "shuffled.jsonl"
        shuffle_words(data / "train.jsonl", train_file)
    work = out / "lora" / f"{name}-{args.lr:g}-{args.steps}"
    files = ["--train-file", train_file, "--val-file", data / "val.jsonl", "--output-dir", work]
    shape = ["--lr", args.lr, "--max-seq-len", 256, "--batch-size", 4, "--grad-accum", 1, "--max-steps", args.steps]
    script("finetune.py", "--model", args.seedling.resolve(), *files, *shape)
    return work / "final"


def shuffle_words(source: Path, target: Path) -> None:
    """The same examples with the words of each text in random order: the domain's words without its sentences."""
    draw = random.Random(0)
    with source.open(encoding="utf-8") as lines, target.open("w", encoding="utf-8") as file:
        for line in lines:
            example = json.loads(line)
            words = example["text"].split()
            draw.shuffle(words)
            file.write(json.dumps({**example, "text": " ".join(words)}, ensure_ascii=False) + "\n")


def evaluate(adapter: Path, out: Path) -> dict[str, Any]:
    """Base and tuned model on both texts. One folder for all runs: the base is measured once."""
    began = time.monotonic()
    texts = ["--val-file", out / "held", "--general-file", out / "general.txt", "--text-dir", out / "text"]
    files = ["--lora-path", adapter, "--train-file", out / "dataset" / "plain" / "train.jsonl", "--output-dir", out / "evaluation"]
    papertune("evaluate", *texts, *files, "--context", 1024, "--device", "cpu")
    results = json.loads((out / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    for ending in ("json", "md"):
        shutil.copyfile(out / "evaluation" / f"evaluation.{ending}", out / f"{adapter.parent.name}.{ending}")
    before, after = results["models"]
    (change,) = results["changes"]
    figures: dict[str, Any] = {"seconds": round(time.monotonic() - began)}
    for kind, name in (("held-out papers", "papers"), ("general text", "general")):
        figures[name] = {
            "before": round(before[kind]["value"], 4),
            "after": round(after[kind]["value"], 4),
            "change": [round(change[kind][key], 4) for key in ("value", "low", "high")],
            "percent": round(change[kind]["percent"], 2),
        }
    return figures


def script(name: str, *words: object) -> None:
    call(SCRIPTS / name, *words)


def papertune(*words: object) -> None:
    call("-m", "papertune", *words)


def call(*words: object) -> None:
    print("──", *words, flush=True)
    subprocess.run([sys.executable, *map(str, words)], check=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})


if __name__ == "__main__":
    main()
