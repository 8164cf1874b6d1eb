"""Does fine-tuning make a real model better at a real domain? The whole of it, measured on papers that it never saw.

    python -m benchmarks.bench_domain PAPERS SEEDLING OUT [--only RUNS] [--steps 141 --tokens 256] [--lr RATE] [--share 0.2] [--strength S]
        [--record]

PAPERS holds ``pdf/`` with the 65 papers, SEEDLING a base model of 40 million parameters that has seen no such paper, with ``general_val.txt``.
The four scripts are run as a user would run them; whatever is finished under OUT is not done again.

    extraction      all 65 papers, the ten held-back ones into a folder of their own
    dataset         from the other 55; once more with a share of general text (``--replay``)
    fine-tuning     plain, with replay, and a control: the plain training examples with the words of each in any order
    evaluation      bits per byte on the ten, as extracted, and on general text; changes with 95 % intervals by paper

The general text is parted by document: of every four, three may be replayed and the fourth is measured, so nothing measured was trained on.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import record

SCRIPTS = Path(__file__).resolve().parents[1] / "finetune"
HELD_BACK = (
    *("PMC5324201", "PMC6281068", "PMC7052325", "PMC5301171", "PMC5454990"),
    *("PMC7065120", "PMC4945999", "PMC5696514", "PMC5497343", "PMC6093152"),
)
DOCUMENT = "\n\x1e\n"  # between the documents of the general text
RUNS = {"plain": (2e-3, 1.0), "replay": (1e-3, 0.6), "shuffled": (2e-3, 1.0)}  # rate, and strength of the adapter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", type=Path)
    parser.add_argument("seedling", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, help="of 4 sequences; one pass over the papers if not named")
    parser.add_argument("--tokens", type=int, default=512, help="in a sequence, at most")
    parser.add_argument("--lr", type=float, help="1e-3 with replay, else 2e-3, if not named")
    parser.add_argument("--share", type=float, default=0.2, help="of general text with replay")
    parser.add_argument("--strength", type=float, help="of the adapter, 0.6 with replay, else 1, if not named; another one trains nothing")
    parser.add_argument("--only", default=",".join(RUNS), metavar="RUNS", help="names with commas between")
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    args = parser.parse_args()
    out = args.out.resolve()
    extract(args.papers, out)
    part_general_text(args.seedling / "general_val.txt", out)
    wanted = vars(args).copy()
    for run in args.only.split(","):
        for name, usual in zip(("lr", "strength"), RUNS[run], strict=True):
            setattr(args, name, usual if wanted[name] is None else wanted[name])
        adapter = fine_tune(run, args, out)
        share = {"share": args.share} if run == "replay" else {}
        shape = {"steps": args.steps or "one pass", "tokens": args.tokens, "lr": args.lr, **share, "strength": args.strength}
        row = {"run": run, **shape, **evaluate(adapter, f"{adapter.parent.name}-{args.strength:g}", out)}
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
    for name, some in (("replay", [text for i, text in enumerate(documents) if i % 4 != 3]), ("general", documents[3::4])):
        (out / f"{name}.txt").write_text(DOCUMENT.join(some), encoding="utf-8")


def fine_tune(run: str, args: argparse.Namespace, out: Path) -> Path:
    """The adapter of this run."""
    name = f"{run}-{args.share:g}" if run == "replay" else run
    data = out / "dataset" / f"{'plain' if run == 'shuffled' else name}-{args.tokens}-{args.steps or 'pass'}"
    replay = ["--replay", out / "replay.txt", "--replay-share", args.share] if run == "replay" else []
    few = ["--max-samples", 4 * args.steps] if args.steps else []  # no more than is trained on, so that general text suffices for any share
    texts = ["--input-dir", out / "text", "--output-dir", data]
    script("prepare_dataset.py", *texts, "--max-tokens", args.tokens, "--mix", "continuation", *replay, *few)
    train_file = data / "train.jsonl"
    if run == "shuffled":
        train_file = out / "dataset" / f"shuffled-{args.tokens}.jsonl"
        shuffle_words(data / "train.jsonl", train_file)
    work = out / "lora" / f"{name}-{args.tokens}-{args.lr:g}-{args.steps or 'pass'}"
    files = ["--train-file", train_file, "--val-file", data / "val.jsonl", "--output-dir", work]
    length = ["--max-steps", args.steps] if args.steps else []
    shape = ["--lr", args.lr, "--epochs", 1, "--max-seq-len", args.tokens, "--batch-size", 4, "--grad-accum", 1]
    script("finetune.py", "--model", args.seedling.resolve(), *files, *shape, *length, "--lora-strength", args.strength)
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


def evaluate(adapter: Path, name: str, out: Path) -> dict[str, Any]:
    """Base and tuned model on both texts. One folder for all runs: the base is measured once; the results are kept under ``name``."""
    texts = ["--val-file", out / "held", "--general-file", out / "general.txt", "--text-dir", out / "text"]
    files = ["--lora-path", adapter, "--train-file", out / "text", "--output-dir", out / "evaluation"]
    with (out / "evaluation.lock").open("w") as lock:  # of runs side by side one measures at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        papertune("evaluate", *texts, *files, "--context", 1024, "--device", "cpu")
        for ending in ("json", "md"):
            shutil.copyfile(out / "evaluation" / f"evaluation.{ending}", out / f"{name}.{ending}")
    results = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    before, after = results["models"]
    (change,) = results["changes"]
    figures: dict[str, Any] = {"writing": written(results)}
    for kind, short in (("held-out papers", "papers"), ("general text", "general")):
        figures[short] = {
            "before": round(before[kind]["value"], 4),
            "after": round(after[kind]["value"], 4),
            "change": [round(change[kind][key], 4) for key in ("value", "low", "high")],
            "percent": round(change[kind]["percent"], 2),
        }
    return figures


def written(results: dict[str, Any]) -> dict[str, Any]:
    """How base and tuned model wrote sections of the ten papers."""
    writing = results["writing"]
    texts = [("authors", writing["authors"]), *zip(("before", "after"), writing["models"], strict=True)]
    keys = ("words", "rep_4", "distinct_2")
    return {who: {**{key: round(f[key], 4) for key in keys}, **({"ends": f["ends"]} if "ends" in f else {})} for who, f in texts}


def script(name: str, *words: object) -> None:
    call(SCRIPTS / name, *words)


def papertune(*words: object) -> None:
    call("-m", "papertune", *words)


def call(*words: object) -> None:
    print("──", *words, flush=True)
    subprocess.run([sys.executable, *map(str, words)], check=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})


if __name__ == "__main__":
    main()
