"""The export step: what it writes is the tuned model, in every way a user can ask for it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from papertune.adapter import open_adapter
from papertune.base import open_base, open_folder
from papertune.config import QUANTS, ExportConfig
from papertune.errors import BadAdapter, BadExport, BadGguf, BadModel, BadValue, Busy, CannotWrite, DiskFull, OutOfMemory, UnsupportedModel
from papertune.events import Event, Notice, Started, Unit
from papertune.export.gguf import read_head
from papertune.export.room import SPARE
from papertune.export.stage import run
from papertune.files import sha256_of
from papertune.tokenizer import open_tokenizer
from tests.adapters import random_adapter

TEXT = "# On naïve Σ-algebras\n\nThe quick brown fox — 3.14 % of 日本語 — jumps;  twice.\n"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(open_base("tiny"), tmp_path_factory.mktemp("adapter") / "final")


@pytest.fixture
def config(lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ExportConfig]:
    monkeypatch.chdir(tmp_path)
    return lambda **changes: ExportConfig(**{"lora_path": lora, "verify": False, **changes})


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


@pytest.mark.parametrize("quant", ["Q4_K_M", "F16"])
def test_through_the_merged_folder_the_bytes_are_the_same(config: Callable[..., ExportConfig], quant: str) -> None:
    run(config(quant=quant))
    direct = sha256_of(Path("scientific-mistral.gguf"))
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


def test_a_folder_of_someone_elses_is_not_replaced(config: Callable[..., ExportConfig]) -> None:
    Path("theirs").mkdir()
    Path("theirs/notes.txt").write_text("precious")
    with pytest.raises(CannotWrite, match="theirs was not made by papertune"):
        run(config(merged_dir=Path("theirs")))
    assert Path("theirs/notes.txt").read_text() == "precious"


def test_skip_merge_without_a_merged_folder_says_so_and_goes_on(config: Callable[..., ExportConfig]) -> None:
    events: list[Event] = []
    run(config(skip_merge=True), on_event=events.append)
    assert any(isinstance(event, Notice) and "merged_model" in event.text for event in events)
    assert Path("scientific-mistral.gguf").exists()


def test_skip_convert_writes_only_the_modelfile(config: Callable[..., ExportConfig]) -> None:
    run(config())
    Path("Modelfile").unlink()
    before = sha256_of(Path("scientific-mistral.gguf"))
    report = run(config(skip_convert=True, lora_path=Path("gone"), ollama_name="again"))
    assert report.next_command == "ollama create again -f Modelfile"
    assert Path("Modelfile").exists()
    assert sha256_of(Path("scientific-mistral.gguf")) == before


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _cut_in_head(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _scramble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30] + b"\xff" * 64 + path.read_bytes()[94:])


def _replace(path: Path) -> None:
    path.write_bytes(b"not a model at all, but long enough for a head")


@pytest.mark.parametrize("harm", [_cut, _cut_in_head, _scramble, _replace, Path.unlink], ids=lambda harm: harm.__name__)
def test_a_damaged_gguf_is_found(config: Callable[..., ExportConfig], harm: Callable[[Path], None]) -> None:
    run(config())
    harm(Path("scientific-mistral.gguf"))
    with pytest.raises(BadGguf, match=r"scientific-mistral\.gguf"):
        run(config(skip_convert=True))
    run(config())
    assert read_head(Path("scientific-mistral.gguf")).tensors


def test_wrong_input_is_told_before_any_work(config: Callable[..., ExportConfig], tmp_path: Path, lora: Path) -> None:
    base = open_base("tiny")
    with pytest.raises(BadAdapter, match="There is no adapter at nowhere"):
        run(config(lora_path=Path("nowhere")))
    with pytest.raises(BadAdapter, match="changes nothing"):
        run(config(lora_path=random_adapter(base, tmp_path / "noop", size=0)))
    with pytest.raises(BadAdapter, match="trained on another model"):
        run(config(lora_path=random_adapter(base, tmp_path / "foreign", provenance={"run": {"model": "0" * 64}})))
    with pytest.raises(BadValue, match="--ollama-name"):
        run(config(ollama_name="no name"))
    odd = shutil.copytree(lora, tmp_path / "odd")
    settings = json.loads((odd / "adapter_config.json").read_text())
    (odd / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": _wider_copy(base.folder, tmp_path / "wider")}))
    with pytest.raises(BadAdapter, match="does not fit"):
        run(config(lora_path=odd))
    assert not list(tmp_path.glob("*.gguf*"))


def _wider_copy(folder: Path, to: Path) -> str:
    """The built-in model with the matrices of its two halves swapped in size, so that the adapter's shapes are wrong."""
    from safetensors.numpy import save_file

    config = json.loads((folder / "config.json").read_text())
    shutil.copytree(folder, to)
    wide, hidden = config["intermediate_size"] * 2, config["hidden_size"]
    tensors = {}
    for name, shape in _shapes(folder / "model.safetensors").items():
        extents = [wide if extent == config["intermediate_size"] else extent for extent in shape]
        tensors[name] = np.zeros(extents, np.float32)
    assert hidden != wide
    save_file(tensors, to / "model.safetensors")
    (to / "config.json").write_text(json.dumps({**config, "intermediate_size": wide}))
    return str(to)


def _shapes(path: Path) -> dict[str, list[int]]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def _folder_of(base: Path, to: Path, lora: Path, change: dict[str, Any]) -> Path:
    """A copy of the base model with another config.json, and an adapter that names it."""
    shutil.copytree(base, to)
    settings = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**settings, **change}))
    adapter = shutil.copytree(lora, to.with_name(to.name + "-lora"))
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(to)}))
    return adapter


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 8}}, "longrope"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_an_unsupported_model_is_refused(config: Callable[..., ExportConfig], tmp_path: Path, lora: Path, change: dict[str, Any], said: str) -> None:
    adapter = _folder_of(open_base("tiny").folder, tmp_path / "model", lora, change)
    with pytest.raises(UnsupportedModel, match=said):
        run(config(lora_path=adapter))
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_model_without_sentencepiece_is_refused(config: Callable[..., ExportConfig], tmp_path: Path, lora: Path) -> None:
    adapter = _folder_of(open_base("tiny").folder, tmp_path / "model", lora, {})
    (tmp_path / "model" / "tokenizer.model").rename(tmp_path / "model" / "tokenizer.json")
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.model"):
        run(config(lora_path=adapter, keep_merged=True, lora_gguf=Path("lora.gguf"), imatrix="auto"))
    assert not list(Path().glob("*.gguf*"))
    assert not Path("merged_model").exists()


def test_a_base_cut_off_or_not_finite_is_found(config: Callable[..., ExportConfig], tmp_path: Path, lora: Path) -> None:
    adapter = _folder_of(open_base("tiny").folder, tmp_path / "model", lora, {})
    weights = tmp_path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(BadModel, match="cut off"):
        run(config(lora_path=adapter))
    weights.write_bytes(whole[:-100] + b"\xff\x7f" * 50)
    with pytest.raises(BadModel, match="not finite"):
        run(config(lora_path=adapter))
    assert not Path("scientific-mistral.gguf").exists()


def test_no_room_on_the_disk_is_told_before_the_first_byte(config: Callable[..., ExportConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("papertune.export.room.disk_free", lambda _: 1 << 20)
    with pytest.raises(DiskFull, match=r"The GGUF file at scientific-mistral\.gguf needs 0\.0 GiB; 0\.0 GiB are free"):
        run(config())
    with pytest.raises(DiskFull, match="The merged model"):
        run(config(keep_merged=True))
    assert not list(Path().iterdir())


def test_the_merged_model_and_the_gguf_must_both_fit_before_either_is_written(
    config: Callable[..., ExportConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(keep_merged=True))
    merged, gguf = Path("merged_model/model.safetensors").stat().st_size, Path("scientific-mistral.gguf").stat().st_size
    shutil.rmtree("merged_model")
    for name in ("scientific-mistral.gguf", "scientific-mistral.gguf.json"):
        Path(name).unlink()
    monkeypatch.setattr("papertune.export.room.disk_free", lambda _: SPARE + max(merged, gguf) + min(merged, gguf) // 2)
    with pytest.raises(DiskFull, match="The merged model"):
        run(config(keep_merged=True))
    assert [path.name for path in Path().iterdir()] == ["Modelfile"]
    run(config())


def test_no_room_in_memory_is_told_before_the_first_byte(config: Callable[..., ExportConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("papertune.export.room.memory_free", lambda: 200 << 20)
    with pytest.raises(OutOfMemory, match=r"needs 0\.3 GiB of memory; 0\.2 GiB are free") as caught:
        run(config(keep_merged=True))
    assert caught.value.remedy == "Close other programs."
    assert not list(Path().iterdir())
    with monkeypatch.context() as roomy:
        roomy.setattr("papertune.export.room.memory_free", lambda: 1 << 30)
        run(config())
    assert run(config()).fresh  # nothing to do needs no memory
    with pytest.raises(OutOfMemory):
        run(config(ollama_name="other"))


def test_a_run_stopped_between_tensors_goes_on_there(config: Callable[..., ExportConfig]) -> None:
    run(config(gguf_path=Path("whole/scientific-mistral.gguf")))

    def stop_at(number: int) -> Callable[[Event], None]:
        def on_event(event: Event) -> None:
            if isinstance(event, Unit) and event.done == number:
                raise KeyboardInterrupt

        return on_event

    for number in (4, 9):
        with pytest.raises(KeyboardInterrupt):
            run(config(), on_event=stop_at(number))
        assert not Path("scientific-mistral.gguf").exists()
    events: list[Event] = []
    run(config(), on_event=events.append)
    assert next(event for event in events if isinstance(event, Started)).done == 9
    assert sha256_of(Path("scientific-mistral.gguf")) == sha256_of(Path("whole/scientific-mistral.gguf"))
    assert sorted(path.name for path in Path().iterdir()) == ["Modelfile", "scientific-mistral.gguf", "scientific-mistral.gguf.json", "whole"]


def test_a_part_that_was_tampered_with_is_not_trusted(config: Callable[..., ExportConfig]) -> None:
    run(config(gguf_path=Path("whole/scientific-mistral.gguf")))

    def stop(event: Event) -> None:
        if isinstance(event, Unit) and event.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(), on_event=stop)
    part = Path("scientific-mistral.gguf.part")
    raw = bytearray(part.read_bytes())
    raw[-5000] ^= 1
    part.write_bytes(raw)
    events: list[Event] = []
    run(config(), on_event=events.append)
    assert next(event for event in events if isinstance(event, Started)).done < 6
    assert sha256_of(Path("scientific-mistral.gguf")) == sha256_of(Path("whole/scientific-mistral.gguf"))


def test_two_exports_into_one_file_do_not_mix(config: Callable[..., ExportConfig]) -> None:
    def second(event: Event) -> None:
        if isinstance(event, Unit) and event.done == 1:
            with pytest.raises(Busy):
                run(config())

    run(config(), on_event=second)


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
    adapter = _folder_of(open_base("tiny").folder, tmp_path / "model", lora, {})
    (tmp_path / "model" / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\nlicense: not this\n")
    run(config(lora_path=adapter))
    assert read_head(Path("scientific-mistral.gguf")).metadata["general.license"] == "apache-2.0"
    assert 'LICENSE """apache-2.0"""' in Path("Modelfile").read_text()


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


def test_every_tensor_has_the_type_llama_quantize_gives_it(config: Callable[..., ExportConfig]) -> None:
    """A tiny model's rows of 32 and 64 values do not divide into super-blocks."""
    run(config())
    types = {tensor.name: tensor.type.name for tensor in read_head(Path("scientific-mistral.gguf")).tensors}
    assert types["output.weight"] == "Q8_0"
    assert types["token_embd.weight"] == types["blk.0.attn_q.weight"] == "Q5_0"
    assert types["blk.0.attn_norm.weight"] == types["output_norm.weight"] == "F32"
    names = list(types)
    assert names == sorted(names, key=lambda n: (int(n.split(".")[1]) if n.startswith("blk.") else -1, n))


@pytest.mark.parametrize("quant", ["F16", "BF16", "Q8_0", "Q4_K_M"])
def test_llama_cpp_reads_and_writes_as_the_model_does(config: Callable[..., ExportConfig], quant: str) -> None:
    check = pytest.importorskip("papertune.export.check")
    if not check.available():
        pytest.skip("xllamacpp is not installed")
    run(config(quant=quant, keep_merged=True))
    ids = open_tokenizer(Path("merged_model")).encode(TEXT)
    with check.load_gguf(Path("scientific-mistral.gguf"), 128) as gguf:
        assert gguf.tokenize(TEXT) == ids
        assert gguf.decode(ids) == TEXT
        ours = gguf.logits([gguf.bos, *ids])
        assert gguf.generate("The fox", 6, seed=3) == gguf.generate("The fox", 6, seed=3)
        likeliest = int(gguf.logits([gguf.bos, *gguf.tokenize("The fox")])[-1].argmax())
        assert gguf.generate("The fox", 1, temperature=0).strip() == gguf.decode([likeliest]).strip()
    theirs = _torch_logits(Path("merged_model"), [1, *ids])
    error = np.abs(ours - theirs).max() / theirs.std()
    assert error < {"F16": 0.01, "BF16": 0.05, "Q8_0": 0.3, "Q4_K_M": 1.2}[quant]
    if quant == "F16":
        assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


def _torch_logits(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).logits[0])


def test_a_gguf_that_does_not_write_like_the_model_is_not_named(config: Callable[..., ExportConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """The most common fault of converters: the rows of the queries and keys left in the wrong order; here, those of the head."""
    from papertune.export.source import TensorSource

    whole = TensorSource.rows

    def scrambled(self: TensorSource, name: str, first: int, last: int) -> np.ndarray:
        rows = whole(self, name, first, last)
        return rows[::-1].copy() if name == "lm_head.weight" and last - first == 3200 else rows

    with monkeypatch.context() as patched:
        patched.setattr("papertune.export.stream.SLAB", 3200 * 32)  # only the slabs that are written, not what they are compared with
        patched.setattr(TensorSource, "rows", scrambled)
        with pytest.raises(BadExport, match="does not write like the model"):
            run(config(verify=True))
    assert not Path("scientific-mistral.gguf").exists()
    assert "Verified" in dict(run(config(quant="Q8_0", verify=True)).summary)
    assert "Verified" not in dict(run(config(quant="Q6_K")).summary)


def test_an_adapter_of_another_base_is_found_by_what_it_does_to_the_text(config: Callable[..., ExportConfig], tmp_path: Path) -> None:
    base = open_base("tiny")
    foreign = random_adapter(base, tmp_path / "foreign", size=30)  # fits by its shapes, and says nothing of where it comes from
    with pytest.raises(BadAdapter, match=r"The adapter spoils tiny: .* without it"):
        run(config(lora_path=foreign, verify=True))
    assert not Path("scientific-mistral.gguf").exists()
    run(config(lora_path=random_adapter(base, tmp_path / "ours", size=30, provenance={"run": {"model": base.fingerprint()}}), verify=True))
    assert Path("scientific-mistral.gguf").exists()


def test_an_importance_matrix_is_made_kept_and_read(config: Callable[..., ExportConfig]) -> None:
    Path("val.jsonl").write_text("".join(json.dumps({"text": f"{TEXT} {i}"}) + "\n" for i in range(40)))
    run(config(val_file=Path("val.jsonl"), quant="Q5_0", gguf_path=Path("plain/x.gguf")))
    run(config(val_file=Path("val.jsonl"), quant="Q5_0", imatrix="auto"))
    made = next(Path().glob("*.imatrix.gguf"))
    before = made.stat().st_mtime_ns
    direct = sha256_of(Path("scientific-mistral.gguf"))
    assert direct != sha256_of(Path("plain/x.gguf"))
    assert run(config(val_file=Path("val.jsonl"), quant="Q5_0", imatrix="auto")).fresh
    assert made.stat().st_mtime_ns == before
    run(config(quant="Q5_0", imatrix=str(made), gguf_path=Path("again/x.gguf")))
    assert sha256_of(Path("again/x.gguf")) == direct
    with pytest.raises(BadValue, match="--imatrix nowhere"):
        run(config(imatrix="nowhere"))
    with pytest.raises(BadValue, match="no weights for this model"):
        run(config(imatrix="plain/x.gguf"))


def test_the_importance_matrix_is_the_mean_square_of_each_linears_input() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from papertune.export.forward import run_model
    from papertune.export.imatrix import collect
    from papertune.export.source import TensorSource

    base = open_base("tiny")
    tokens = [[1, *open_tokenizer(base.folder).encode(text)] for text in (TEXT, "Another text, of another length.")]
    with TensorSource(base, None) as source:
        ours, logits = collect(source, tokens), run_model(source, tokens)
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    sums: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, given, name=name: sums.update({name: sums.get(name, 0) + given[0][0].pow(2).sum(0)}))
    with torch.no_grad():
        theirs = [model(torch.tensor([ids])).logits[0].numpy() for ids in tokens]
    count = sum(map(len, tokens))
    assert np.allclose(ours["blk.1.ffn_down.weight"], sums["model.layers.1.mlp.down_proj"] / count, rtol=1e-3)
    assert np.allclose(ours["blk.0.attn_output.weight"], sums["model.layers.0.self_attn.o_proj"] / count, rtol=1e-3)
    assert "output.weight" not in ours
    assert all(np.abs(a - b).max() < 1e-3 for a, b in zip(logits, theirs, strict=True))


def test_the_adapter_alone_gives_the_same_model_in_llama_cpp(config: Callable[..., ExportConfig], lora: Path) -> None:
    gguf = pytest.importorskip("gguf")
    run(config(lora_gguf=Path("lora.gguf")))
    reader = gguf.GGUFReader("lora.gguf")
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


def test_a_missing_gguf_is_told_by_the_checker(tmp_path: Path) -> None:
    from papertune.export.check import load_gguf

    with pytest.raises(BadGguf, match="There is no GGUF file"):
        load_gguf(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BadGguf):
        load_gguf(tmp_path / "bad.gguf")


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
