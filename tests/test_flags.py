"""The specification's flags and defaults, script by script. This table is the promise; it changes only with the specification."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from papertune.config import SEVEN_PROJECTIONS, ExportConfig, ExtractConfig, PrepareConfig, TrainConfig

FINETUNE = Path(__file__).parents[1] / "finetune"
SPEC = {
    "extract_text.py": {
        "--input-dir": "./pdfs",
        "--output-dir": "./extracted_text",
        "--min-length": "200",
        "--device": "cuda",
        "--no-resume": None,
    },
    "prepare_dataset.py": {
        "--input-dir": "./extracted_text",
        "--output-dir": "./dataset",
        "--chunk-size": "2000",
        "--overlap": "200",
        "--val-ratio": "0.05",
        "--max-samples": None,
    },
    "finetune.py": {
        "--model": "mistralai/Mistral-7B-v0.1",
        "--train-file": "./dataset/train.jsonl",
        "--val-file": "./dataset/val.jsonl",
        "--output-dir": "./lora_output",
        "--epochs": "2",
        "--lr": "0.0002",
        "--batch-size": "1",
        "--grad-accum": "4",
        "--max-seq-len": "512",
        "--lora-rank": "16",
        "--lora-alpha": "32",
        "--resume": None,
    },
    "export_model.py": {
        "--lora-path": "./lora_output/final",
        "--merged-dir": "./merged_model",
        "--gguf-path": "./scientific-mistral.gguf",
        "--quant": "Q4_K_M",
        "--ollama-name": "scientific-mistral",
        "--skip-merge": None,
        "--skip-convert": None,
    },
}


@pytest.mark.parametrize("script", SPEC)
def test_help_names_every_flag_with_its_default(script: str) -> None:
    wide = {**os.environ, "COLUMNS": "120"}
    answer = subprocess.run([sys.executable, script, "--help"], cwd=FINETUNE, env=wide, capture_output=True, text=True, check=True)
    options = re.split(r"\n  (?=-)", answer.stdout.replace("\n  -", "\n\n  -"))
    shown = {option.split()[0]: " ".join(option.split()) for option in options[1:]}
    for flag, default in SPEC[script].items():
        assert flag in shown
        if default is not None:
            assert f"[default: {default}]" in shown[flag]


def test_defaults_of_the_configs() -> None:
    extract, prepare, train, export = ExtractConfig(), PrepareConfig(), TrainConfig(), ExportConfig()
    assert (extract.input_dir, extract.output_dir) == ((Path("./pdfs"),), Path("./extracted_text"))
    assert (extract.min_length, extract.device, extract.resume) == (200, "cuda", True)
    assert (prepare.input_dir, prepare.output_dir) == (Path("./extracted_text"), Path("./dataset"))
    assert (prepare.chunk_size, prepare.overlap, prepare.val_ratio, prepare.max_samples) == (2000, 200, 0.05, None)
    assert (train.model, train.epochs, train.lr, train.batch_size, train.grad_accum) == ("mistralai/Mistral-7B-v0.1", 2, 2e-4, 1, 4)
    assert (train.max_seq_len, train.lora_rank, train.lora_alpha, train.resume) == (512, 16, 32, None)
    assert (train.train_file, train.val_file) == (Path("./dataset/train.jsonl"), Path("./dataset/val.jsonl"))
    assert train.output_dir == Path("./lora_output")
    assert (export.lora_path, export.merged_dir) == (Path("./lora_output/final"), Path("./merged_model"))
    assert export.gguf_path == Path("./scientific-mistral.gguf")
    assert (export.quant, export.ollama_name, export.skip_merge, export.skip_convert) == ("Q4_K_M", "scientific-mistral", False, False)


def test_the_projections_stand_in_the_script_where_the_specification_says_to_edit_them() -> None:
    text = (FINETUNE / "finetune.py").read_text()
    names = re.search(r"target_modules = \((.*)\)", text)
    assert names is not None
    assert tuple(re.findall(r'"(\w+)"', names[1])) == SEVEN_PROJECTIONS == TrainConfig().target_modules
