"""How long an evaluation takes with the tiny model, and whether its figures come out the same to the last digit.

    python -m benchmarks.bench_evaluate PAPERS OUT [--record]

PAPERS holds ``pdf/`` with the 65 papers; the ten of ``bench_domain`` are measured, as extracted. The adapter is of random weights. Each model is
measured alone where that can be (base and adapter share one run): bits per byte on the ten and on the built-in general text, eight sections
written anew, the papers compared with the other 55. Everything is done twice, and the two ``evaluation.json`` are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bench_copies import parted
from benchmarks.bench_domain import HELD_BACK
from benchmarks.results import record
from papertune.base import open_base
from papertune.config import ExportConfig, ExtractConfig
from papertune.export import stage as export
from papertune.extract import stage as extract
from tests.adapters import random_adapter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    args = parser.parse_args()
    extract.run(ExtractConfig(input_dir=(args.papers / "pdf",), output_dir=args.out / "text", device="cpu", engine="fast"))
    training, held = parted(args.out / "text", args.out, HELD_BACK)
    random_adapter(open_base("tiny"), args.out / "final", size=0.01)
    gguf = args.out / "tiny.gguf"
    export.run(ExportConfig(lora_path=args.out / "final", gguf_path=gguf, verify=False))
    texts = ["--val-file", held, "--train-file", training, "--text-dir", training, "--device", "cpu"]
    for model, flags in (("base and adapter", ["--lora-path", args.out / "final"]), ("GGUF", ["--only-gguf", "--gguf", gguf])):
        runs = [measured(args.out / f"{model} {k}", *texts, *flags) for k in (1, 2)]
        same = runs[0].pop("figures") == runs[1].pop("figures")
        row = {"model": model, "same_digits": same, "runs": runs}
        if args.record:
            record("evaluate", row, "torch", "transformers", "xllamacpp")
        else:
            print(json.dumps(row, indent=1), flush=True)


def measured(output: Path, *words: object) -> dict[str, Any]:
    for path in output.glob("*evaluation*"):
        path.unlink()
    (output / ".resume.json").unlink(missing_ok=True)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-m", "papertune", "evaluate", *map(str, words), "--output-dir", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    figures = (output / "evaluation.json").read_bytes()
    return {"wall_s": round(time.monotonic() - began, 1), "cpu_s": round(cpu, 1), "figures": figures}


if __name__ == "__main__":
    main()
