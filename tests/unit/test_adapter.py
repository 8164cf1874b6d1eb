"""Adapters in PEFT's format: written deterministically, read with every fault named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from papertune.adapter import open_adapter, write_adapter
from papertune.errors import BadAdapter

MODULE = "model.layers.0.self_attn.q_proj"
PAIR = {
    f"base_model.model.{MODULE}.lora_A.weight": np.arange(8, dtype=np.float32).reshape(2, 4),
    f"base_model.model.{MODULE}.lora_B.weight": np.ones((6, 2), dtype=np.float32),
}


def write(folder: Path, tensors: dict[str, np.ndarray] = PAIR) -> Path:
    write_adapter(
        folder, tensors, base_model="tiny", rank=2, alpha=4.0, dropout=0.1, target_modules=("q_proj",), provenance={"run": {"seed": 0}}
    )
    return folder


def test_what_was_written_is_read(tmp_path: Path) -> None:
    adapter = open_adapter(write(tmp_path / "a"))
    assert (adapter.base_model, adapter.rank, adapter.alpha, adapter.scale, adapter.target_modules) == ("tiny", 2, 4.0, 2.0, ("q_proj",))
    assert adapter.provenance == {"run": {"seed": 0}}
    a, b = adapter.pairs()[MODULE]
    assert (a == np.arange(8).reshape(2, 4)).all()
    assert b.shape == (6, 2)


def test_the_same_weights_are_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", dict(reversed(PAIR.items())))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_bfloat16_from_elsewhere_is_widened_exactly(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    write(tmp_path)
    halves = {name: torch.from_numpy(t).to(torch.bfloat16) for name, t in PAIR.items()}
    save_file(halves, tmp_path / "adapter_model.safetensors")
    assert (open_adapter(tmp_path).pairs()[MODULE][0] == np.arange(8).reshape(2, 4)).all()


def test_rank_stabilised_scale(tmp_path: Path) -> None:
    change_config(write(tmp_path), use_rslora=True)
    assert open_adapter(tmp_path).scale == pytest.approx(4 / 2**0.5)


def change_config(folder: Path, **changed: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


FAULTS: dict[str, Callable[[Path], object]] = {
    "no adapter_config.json": lambda f: (f / "adapter_config.json").unlink(),
    "no adapter_model.safetensors": lambda f: (f / "adapter_model.safetensors").unlink(),
    "cannot be read": lambda f: (f / "adapter_config.json").write_text("{"),
    "use_dora": lambda f: change_config(f, use_dora=True),
    "rank_pattern": lambda f: change_config(f, rank_pattern={"q_proj": 4}),
    "not a plain LoRA": lambda f: change_config(f, peft_type="IA3"),
    "usable": lambda f: change_config(f, r="many"),
    "not of rank 8": lambda f: change_config(f, r=8),
    "is damaged": lambda f: (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors").read_bytes()[:-1]),
    "only one half": lambda f: write(f, {name: t for name, t in PAIR.items() if "lora_A" in name}),
    "no LoRA weight": lambda f: write(f, {**PAIR, "base_model.model.lm_head.weight": np.ones((1, 1), np.float32)}),
    "holds no weights": lambda f: write(f, {}),
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_fault_is_named(tmp_path: Path, words: str) -> None:
    write(tmp_path)
    FAULTS[words](tmp_path)
    with pytest.raises(BadAdapter, match=words):
        open_adapter(tmp_path).pairs()


def test_no_folder_and_pickled_weights_are_said(tmp_path: Path) -> None:
    with pytest.raises(BadAdapter, match="no adapter at"):
        open_adapter(tmp_path / "nothing")
    write(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(BadAdapter, match="pickle"):
        open_adapter(tmp_path)
