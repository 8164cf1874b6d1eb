"""What the training tests share: a small made-up dataset and settings that train the tiny model in seconds."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from papertune.config import TrainConfig

SENTENCE = "the protein binds a receptor in cells of mice while light moves through glass at speed we measured and found no effect"


def write_dataset(folder: Path, *, train: int = 24, val: int = 4, words: int = 40, seed: int = 0) -> Path:
    """``train.jsonl`` and ``val.jsonl`` of made-up sentences, four to a paper."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("val", val)):
        lines = []
        for i in range(count):
            text = " ".join(rng.choices(SENTENCE.split(), k=words))
            lines.append(json.dumps({"id": f"{name}-{i}", "paper": f"{name}-{i // 4}", "text": text, "prompt": "# On cells\n\n", "end": i % 4 == 3}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def settings(data: Path, output: Path, **changed: Any) -> TrainConfig:
    """12 steps of 4 sequences of at most 64 tokens, saved every 4."""
    chosen: dict[str, Any] = {"model": "tiny", "max_seq_len": 64, "save_steps": 4, "eval_steps": 6, "sample_tokens": 0, **changed}
    return TrainConfig(train_file=data / "train.jsonl", val_file=data / "val.jsonl", output_dir=output, **chosen)


def adapter_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def losses(output: Path) -> dict[int, float]:
    """Step → loss, as ``events.jsonl`` has them; fails when a step stands there twice."""
    steps = [line for line in map(json.loads, (output / "events.jsonl").read_text().splitlines()) if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    return {line["step"]: line["loss"] for line in steps}
