"""``papertune demo``: the four steps on six small papers and a book chapter of our own, with the toy model, and a passage at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from papertune.adapter import open_adapter
from papertune.config import Config, ExportConfig, ExtractConfig, PrepareConfig, ReportConfig, TrainConfig

TOY = "The tiny model is a toy of two million weights that has read nothing but these papers: expect word salad. It shows that the machinery works."
PROMPT = "# Water in the root zone\n\n## Introduction\n\n"


def steps(folder: Path) -> tuple[Config, ...]:
    """The four steps' settings, all inside ``folder``."""
    dataset, lora = folder / "dataset", folder / "lora_output"
    return (
        ExtractConfig(input_dir=(folder / "pdfs",), output_dir=folder / "extracted_text", device="cpu"),
        PrepareConfig(input_dir=folder / "extracted_text", output_dir=dataset, chunk_size=1000, overlap=100, val_ratio=0.15),
        TrainConfig(
            model="tiny",
            train_file=dataset / "train.jsonl",
            val_file=dataset / "val.jsonl",
            output_dir=lora,
            epochs=10,
            lr=5e-3,
            max_seq_len=256,
            lora_dropout=0.0,
        ),
        ExportConfig(
            lora_path=lora / "final", merged_dir=folder / "merged_model", gguf_path=folder / "demo.gguf", ollama_name="papertune-demo"
        ),
    )


def report(folder: Path) -> Config:
    """The settings of the report on these steps."""
    return ReportConfig(
        output=folder / "report.html",
        text_dir=folder / "extracted_text",
        dataset_dir=folder / "dataset",
        lora_dir=folder / "lora_output",
        gguf=(folder / "demo.gguf",),
        evaluation_dir=folder / "evaluation",
    )


def walk(folder: Path, execute: Callable[[Config], object]) -> None:
    """Runs the demo in ``folder``, step by step with ``execute``; called again it skips what is done."""
    from papertune.demo.typeset import write_papers
    from papertune.export.check import load_gguf

    print(f"papertune demo: six short papers and a book chapter → {folder / 'pdfs'}")
    write_papers(folder / "pdfs")
    for number, config in enumerate(steps(folder), 1):
        print(f"\n── Step {number} of 4: papertune {config.step} ──", flush=True)
        execute(config)
    print("\n── The run on one page: papertune report ──", flush=True)
    execute(report(folder))
    passage = load_gguf(folder / "demo.gguf").generate(PROMPT, max_tokens=80, seed=0, temperature=0.8)
    bits = open_adapter(folder / "lora_output" / "final").provenance["bits_per_byte"]
    print(f"\n── What {folder / 'demo.gguf'} writes, run by llama.cpp ──\n\n{PROMPT}{passage}\n")
    print(f"Held-out bits per byte: {bits['before']:.3f} before fine-tuning, {bits['after']:.3f} after (lower is better).")
    print(TOY)
    print(f"Everything lies in {folder}/. The real thing: papertune doctor, then the four steps in the README.")
