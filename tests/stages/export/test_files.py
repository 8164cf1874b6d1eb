"""What the export writes: the tuned model, in every way a user can ask for it, complete for llama.cpp and Ollama."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from papertune.adapter import open_adapter
from papertune.base import open_base
from papertune.config import QUANTS, ExportConfig
from papertune.events import Event, Notice
from papertune.export.gguf import read_head
from papertune.export.stage import run
from papertune.files import sha256_of
from tests.adapters import random_adapter, with_changed_base


def test_the_specs_defaults_give_the_files_and_the_command_it_names(config: Callable[..., ExportConfig]) -> None:
    report = run(config(verify=ExportConfig().verify))
    assert report.next_command == "ollama create scientific-mistral -f Modelfile"
    assert report.written == [Path("scientific-mistral.gguf"), Path("Modelfile")]
    assert Path("Modelfile").read_text().startswith("FROM ./scientific-mistral.gguf\n")
    assert sorted(path.name for path in Path().iterdir()) == ["Modelfile", "scientific-mistral.gguf", "scientific-mistral.gguf.json"]
    assert dict(report.summary)["sha256"] == sha256_of(Path("scientific-mistral.gguf"))


def test_what_the_file_cannot_say_of_itself_is_recorded_beside_it(config: Callable[..., ExportConfig]) -> None:
    path, record = Path("scientific-mistral.gguf"), Path("scientific-mistral.gguf.json")
    run(config())
    first = json.loads(record.read_text())
    head = path.read_bytes()[: read_head(path).data_start]
    assert first == {
        "version": 1, "head": hashlib.sha256(head).hexdigest(), "size": path.stat().st_size, "sha256": sha256_of(path), "verified": None,
    }  # fmt: skip
    run(config(quant="Q8_0", verify=True))
    verified = json.loads(record.read_text())["verified"]
    assert verified["gguf_bits"] == pytest.approx(verified["model_bits"], abs=0.1)
    assert verified["tokens"] > 0
    assert 0 < verified["agreement"] <= 1


def test_a_gguf_names_the_data_it_was_trained_on(config: Callable[..., ExportConfig], tmp_path: Path) -> None:
    base = open_base("tiny")
    trained = {"run": {"model": base.fingerprint(), "train_data": "a" * 64, "val_data": "b" * 64}}
    run(config(lora_path=random_adapter(base, tmp_path / "trained", provenance=trained)))
    metadata = read_head(Path("scientific-mistral.gguf")).metadata
    assert metadata["papertune.dataset.train.sha256"] == "a" * 64
    assert metadata["papertune.dataset.val.sha256"] == "b" * 64


def test_names_and_folders_may_be_chosen(config: Callable[..., ExportConfig]) -> None:
    report = run(config(gguf_path=Path("out/bio model.gguf"), ollama_name="me/bio:7b"))
    assert report.next_command == "ollama create me/bio:7b -f out/Modelfile"
    assert Path("out/Modelfile").read_text().startswith("FROM ./bio model.gguf\n")


def test_the_same_export_is_not_done_twice(config: Callable[..., ExportConfig]) -> None:
    run(config())
    before = Path("scientific-mistral.gguf").stat().st_mtime_ns
    again = run(config())
    assert again.fresh
    assert Path("scientific-mistral.gguf").stat().st_mtime_ns == before
    assert not run(config(quant="Q8_0")).fresh
    assert not run(config(quant="Q8_0", ollama_name="other")).fresh


@pytest.mark.parametrize("quant", QUANTS)
def test_every_quant_gives_a_whole_file(config: Callable[..., ExportConfig], quant: str) -> None:
    run(config(quant=quant))
    head = read_head(Path("scientific-mistral.gguf"))
    assert head.file_size == Path("scientific-mistral.gguf").stat().st_size


def test_another_adapter_is_another_export(config: Callable[..., ExportConfig], tmp_path: Path) -> None:
    run(config())
    first = sha256_of(Path("scientific-mistral.gguf"))
    assert not run(config(lora_path=random_adapter(open_base("tiny"), tmp_path / "other", seed=1))).fresh
    assert sha256_of(Path("scientific-mistral.gguf")) != first


def test_a_modelfile_of_the_users_own_is_kept(config: Callable[..., ExportConfig]) -> None:
    said: list[Event] = []
    run(config(), on_event=said.append)
    run(config(gguf_path=Path("other.gguf")), on_event=said.append)
    assert not [event for event in said if isinstance(event, Notice) and "Modelfile" in event.text]
    assert Path("Modelfile").read_text().startswith("FROM ./other.gguf\n"), "as papertune wrote it, it is replaced"

    edited = Path("Modelfile").read_text().replace("temperature 0.8", "temperature 0.3")
    Path("Modelfile").write_text(edited)
    report = run(config(gguf_path=Path("other.gguf")), on_event=said.append)
    assert Path("Modelfile").read_text() == edited
    assert "temperature 0.8" in Path("Modelfile.new").read_text()
    assert said[-1] == Notice("Modelfile is not as papertune wrote it, and is kept; the new one is Modelfile.new.", "warning")
    assert report.written[-1] == Path("Modelfile.new")
    assert report.next_command == "ollama create scientific-mistral -f Modelfile"
    assert run(config(gguf_path=Path("other.gguf"))).fresh

    Path("Modelfile.new").replace("Modelfile")
    run(config())
    assert Path("Modelfile").read_text().startswith("FROM ./scientific-mistral.gguf\n"), "the new one is papertune's wherever it lies"

    Path("Modelfile").write_bytes(b"FROM llama3\nSYSTEM my own \xff\n")
    report = run(config())
    assert Path("Modelfile").read_bytes().startswith(b"FROM llama3\n")
    assert report.next_command == "ollama create scientific-mistral -f Modelfile.new"


def test_a_modelfile_without_a_mark_as_earlier_versions_wrote_it_is_papertunes(config: Callable[..., ExportConfig]) -> None:
    run(config())
    whole = Path("Modelfile").read_bytes()
    Path("Modelfile").write_bytes(whole[: whole.rfind(b"# ")])
    run(config())
    assert Path("Modelfile").read_bytes() == whole
    assert not Path("Modelfile.new").exists()


def test_skip_convert_writes_only_the_modelfile(config: Callable[..., ExportConfig]) -> None:
    run(config())
    Path("Modelfile").unlink()
    before = sha256_of(Path("scientific-mistral.gguf"))
    report = run(config(skip_convert=True, lora_path=Path("gone"), ollama_name="again"))
    assert report.next_command == "ollama create again -f Modelfile"
    assert Path("Modelfile").exists()
    assert sha256_of(Path("scientific-mistral.gguf")) == before


def test_the_metadata_is_what_llama_cpp_and_ollama_need(config: Callable[..., ExportConfig], lora: Path) -> None:
    gguf = pytest.importorskip("gguf")
    run(config())
    reader = gguf.GGUFReader("scientific-mistral.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    base, settings = open_base("tiny"), open_base("tiny").config
    assert fields["general.architecture"] == "llama"
    assert fields["general.name"] == "scientific-mistral"
    assert (fields["general.file_type"], fields["general.quantization_version"]) == (15, 2)
    assert fields["llama.context_length"] == settings["max_position_embeddings"]
    assert fields["llama.attention.head_count"] == settings["num_attention_heads"]
    assert fields["llama.attention.head_count_kv"] == settings["num_key_value_heads"]
    assert fields["llama.rope.freq_base"] == 10000.0
    assert fields["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert (fields["tokenizer.ggml.add_bos_token"], fields["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert fields["papertune.base"] == "tiny"
    assert fields["papertune.base.fingerprint"] == base.fingerprint()
    assert fields["papertune.adapter.sha256"] == sha256_of(lora / "adapter_model.safetensors")
    scores = fields["tokenizer.ggml.scores"]
    assert len(scores) == settings["vocab_size"]
    pieces = SentencePieceProcessor(model_file=str(base.folder / "tokenizer.model"))
    assert scores[3:] == [pieces.GetScore(i) for i in range(3, len(scores))]
    assert fields["tokenizer.ggml.token_type"][3] == 6  # a byte


def test_the_licence_of_the_model_card_goes_along(config: Callable[..., ExportConfig], tmp_path: Path, lora: Path) -> None:
    adapter = with_changed_base(open_base("tiny").folder, tmp_path / "model", lora, {})
    (tmp_path / "model" / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\nlicense: not this\n")
    run(config(lora_path=adapter))
    assert read_head(Path("scientific-mistral.gguf")).metadata["general.license"] == "apache-2.0"
    assert 'LICENSE """apache-2.0"""' in Path("Modelfile").read_text()


def test_every_tensor_has_the_type_llama_quantize_gives_it(config: Callable[..., ExportConfig]) -> None:
    """A tiny model's rows of 32 and 64 values do not divide into super-blocks."""
    run(config())
    types = {tensor.name: tensor.type.name for tensor in read_head(Path("scientific-mistral.gguf")).tensors}
    assert types["output.weight"] == "Q8_0"
    assert types["token_embd.weight"] == types["blk.0.attn_q.weight"] == "Q5_0"
    assert types["blk.0.attn_norm.weight"] == types["output_norm.weight"] == "F32"
    names = list(types)
    assert names == sorted(names, key=lambda n: (int(n.split(".")[1]) if n.startswith("blk.") else -1, n))


def test_the_adapter_alone_gives_the_same_model_in_llama_cpp(config: Callable[..., ExportConfig], lora: Path) -> None:
    gguf = pytest.importorskip("gguf")
    run(config(lora_gguf=Path("new/lora.gguf")))
    reader = gguf.GGUFReader("new/lora.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    adapter = open_adapter(lora)
    assert (fields["general.type"], fields["adapter.type"], fields["adapter.lora.alpha"]) == ("adapter", "lora", adapter.alpha)
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    a, b = adapter.pairs()["model.layers.0.self_attn.q_proj"]
    heads = open_base("tiny").config["num_attention_heads"]
    paired = b.reshape(heads, 2, b.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(b.shape)
    assert np.array_equal(tensors["blk.0.attn_q.weight.lora_a"], a)
    assert np.array_equal(tensors["blk.0.attn_q.weight.lora_b"], paired)
    assert len(tensors) == 2 * len(adapter.pairs())
