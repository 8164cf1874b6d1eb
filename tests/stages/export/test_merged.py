"""Base and adapter made one, on the way or in a folder of their own: the same bytes, and PEFT's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from papertune.adapter import open_adapter
from papertune.base import open_base, open_folder
from papertune.config import ExportConfig
from papertune.errors import CannotWrite
from papertune.events import Event, Notice
from papertune.export.gguf import read_head
from papertune.export.stage import run
from papertune.files import sha256_of
from tests.adapters import random_adapter


@pytest.mark.parametrize("quant", ["Q4_K_M", "F16"])
def test_through_the_merged_folder_the_bytes_are_the_same(config: Callable[..., ExportConfig], quant: str) -> None:
    assert "--keep-merged" in dict(run(config(quant=quant)).summary)["Merged"]
    direct = sha256_of(Path("scientific-mistral.gguf"))
    assert not run(config(quant=quant, keep_merged=True)).fresh  # the GGUF stands, the merged folder is new
    again = run(config(quant=quant, keep_merged=True))
    assert again.fresh
    assert "Merged" not in dict(again.summary)
    run(config(quant=quant, keep_merged=True, gguf_path=Path("a/x.gguf")))
    run(config(quant=quant, skip_merge=True, gguf_path=Path("b/x.gguf"), lora_path=Path("gone")))
    assert sha256_of(Path("a/x.gguf")) == sha256_of(Path("b/x.gguf")) == direct


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 under transformers 5.23
def test_the_merged_folder_is_pefts_merge_with_the_tokenizer(config: Callable[..., ExportConfig], lora: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    report = run(config(merged_dir=Path("merged")))
    assert report.written[0] == Path("merged")
    base = open_base("tiny")
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.bfloat16)
    expected = PeftModel.from_pretrained(model, str(lora)).merge_and_unload().state_dict()
    ours = load_file("merged/model.safetensors")
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in ours)
    assert sha256_of(Path("merged/tokenizer.model")) == sha256_of(base.folder / "tokenizer.model")
    assert open_folder(Path("merged"), "merged").config == base.config


def test_a_large_model_is_merged_into_shards(config: Callable[..., ExportConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    from papertune.export import merged

    run(config(quant="F16"))
    monkeypatch.setattr(merged.plan_shards, "__defaults__", (100_000,))
    run(config(quant="F16", merged_dir=Path("merged"), gguf_path=Path("a/x.gguf")))
    index = json.loads(Path("merged/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    run(config(quant="F16", merged_dir=Path("merged"), skip_merge=True, gguf_path=Path("b/x.gguf")))
    assert sha256_of(Path("b/x.gguf")) == sha256_of(Path("scientific-mistral.gguf"))


def test_a_merged_folder_that_stands_is_kept_and_one_of_another_adapter_replaced(config: Callable[..., ExportConfig], tmp_path: Path) -> None:
    run(config(keep_merged=True))
    before = Path("merged_model/model.safetensors").stat().st_mtime_ns
    run(config(keep_merged=True, quant="Q8_0"))
    assert Path("merged_model/model.safetensors").stat().st_mtime_ns == before
    run(config(keep_merged=True, lora_path=random_adapter(open_base("tiny"), tmp_path / "other", seed=1)))
    assert Path("merged_model/model.safetensors").stat().st_mtime_ns != before
    assert not list(Path().glob("merged_model.*"))


def test_afolder_of_someone_elses_is_not_replaced(config: Callable[..., ExportConfig]) -> None:
    Path("theirs").mkdir()
    Path("theirs/notes.txt").write_text("precious")
    with pytest.raises(CannotWrite, match="theirs was not made by papertune"):
        run(config(merged_dir=Path("theirs")))
    assert Path("theirs/notes.txt").read_text() == "precious"


def test_an_adapter_is_not_taken_for_a_merged_model(config: Callable[..., ExportConfig], lora: Path) -> None:
    """Its folder has a papertune.json too."""
    for name in ("final", "checkpoint-8"):
        shutil.copytree(lora, Path(name))
        Path(name, "papertune.json").write_text(json.dumps({"run": {"model": open_base("tiny").fingerprint()}, "step": 8}))
    for name, said in (("final", "holds the adapter"), ("checkpoint-8", "was not made by papertune as a merged model")):
        with pytest.raises(CannotWrite, match=said):
            run(config(lora_path=Path("final"), merged_dir=Path(name)))
        assert open_adapter(Path(name)).pairs()


def test_a_merged_folder_that_holds_something_else_is_not_replaced(config: Callable[..., ExportConfig], tmp_path: Path) -> None:
    run(config(keep_merged=True))
    other = random_adapter(open_base("tiny"), tmp_path / "merged_model" / "lora" / "final", seed=1)
    with pytest.raises(CannotWrite, match="merged_model holds the adapter"):
        run(config(keep_merged=True, lora_path=other))
    second = random_adapter(open_base("tiny"), tmp_path / "second", seed=2)
    with pytest.raises(CannotWrite, match="merged_model holds lora, which is no part"):
        run(config(keep_merged=True, lora_path=second))
    assert open_adapter(other).pairs()
    shutil.rmtree("merged_model/lora")
    shutil.copytree("merged_model", "merged_model.old")
    run(config(keep_merged=True, lora_path=second))
    assert Path("merged_model.old/model.safetensors").exists()


def test_the_base_of_a_second_fine_tuning_is_not_replaced(config: Callable[..., ExportConfig], tmp_path: Path) -> None:
    run(config(keep_merged=True))
    weights = sha256_of(Path("merged_model/model.safetensors"))
    lora = random_adapter(open_base(str(tmp_path / "merged_model")), tmp_path / "second", seed=1)
    with pytest.raises(CannotWrite, match="--merged-dir merged_model holds the base model"):
        run(config(keep_merged=True, lora_path=lora))
    assert sha256_of(Path("merged_model/model.safetensors")) == weights
    run(config(merged_dir=Path("second_merged"), lora_path=lora))
    assert Path("second_merged/model.safetensors").exists()


def test_skip_merge_without_a_merged_folder_says_so_and_goes_on(config: Callable[..., ExportConfig]) -> None:
    events: list[Event] = []
    run(config(skip_merge=True), on_event=events.append)
    assert any(isinstance(event, Notice) and "merged_model" in event.text for event in events)
    assert Path("scientific-mistral.gguf").exists()


def test_skip_merge_says_when_the_merged_folder_is_of_another_adapter(config: Callable[..., ExportConfig], tmp_path: Path) -> None:
    events: list[Event] = []
    run(config(keep_merged=True))
    run(config(skip_merge=True), on_event=events.append)
    assert not [event for event in events if isinstance(event, Notice) and event.level == "warning"]
    newer = random_adapter(open_base("tiny"), tmp_path / "newer", seed=1)
    run(config(skip_merge=True, lora_path=newer), on_event=events.append)
    said = [event.text for event in events if isinstance(event, Notice) and event.level == "warning"]
    assert len(said) == 1
    assert "merged_model was merged from another adapter" in said[0]


def test_the_adapter_may_be_merged_into_what_training_saw(config: Callable[..., ExportConfig]) -> None:
    import torch
    from safetensors.torch import load_file

    from tests.qlora import rounded

    run(config(merge_base="nf4", merged_dir=Path("merged")))
    name = "model.layers.0.mlp.down_proj.weight"
    base = load_file(open_base("tiny").folder / "model.safetensors")
    a, b = (torch.from_numpy(half) for half in open_adapter(config().lora_path).pairs()[name.removesuffix(".weight")])
    merged = load_file("merged/model.safetensors")
    assert torch.equal(merged[name], (rounded(base[name]).float() + (b @ a) * 2.0).bfloat16())
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    assert read_head(Path("scientific-mistral.gguf")).metadata["papertune.merge_base"] == "nf4"


def test_the_adapter_is_read_once_and_fits(lora: Path) -> None:
    from papertune.export.source import TensorSource

    base = open_base("tiny")
    with TensorSource(base, open_adapter(lora)) as source, TensorSource(base, None) as plain:
        name = "model.layers.0.self_attn.q_proj.weight"
        heads = base.config["num_attention_heads"]
        rows = source.shape(name)[0]
        width = rows // heads
        whole = source.heads_paired(name, heads, 0, rows)
        assert np.array_equal(np.concatenate([source.heads_paired(name, heads, f, f + width) for f in range(0, rows, width)]), whole)
        assert np.array_equal(whole[1], source.rows(name, width // 2, width // 2 + 1)[0])
        assert not np.array_equal(source.rows(name, 0, rows), plain.rows(name, 0, rows))
