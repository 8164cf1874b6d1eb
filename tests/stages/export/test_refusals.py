"""Input that cannot become a GGUF, and machines without room for one: told before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from papertune.base import open_base
from papertune.config import ExportConfig
from papertune.errors import BadAdapter, BadGguf, BadModel, BadValue, CannotWrite, DiskFull, OutOfMemory, UnsupportedModel
from papertune.export.gguf import read_head
from papertune.export.room import SPARE
from papertune.export.stage import run
from tests.adapters import random_adapter, with_changed_base


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
    with pytest.raises(BadAdapter, match=r"odd-run/papertune\.json: run is not a JSON object"):
        run(config(lora_path=random_adapter(base, tmp_path / "odd-run", provenance={"run": []})))
    with pytest.raises(BadValue, match="--val-file nofile: there is no such file"):
        run(config(val_file=Path("nofile")))
    with pytest.raises(BadValue, match="--ollama-name"):
        run(config(ollama_name="no name"))
    moved = random_adapter(replace(base, name=str(tmp_path / "gone")), tmp_path / "moved")
    with pytest.raises(BadModel, match=r"moved was trained on .*gone, and there is no such folder") as caught:
        run(config(lora_path=moved))
    assert "moved/adapter_config.json" in caught.value.remedy
    odd = shutil.copytree(lora, tmp_path / "odd")
    settings = json.loads((odd / "adapter_config.json").read_text())
    (odd / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": _wider_copy(base.folder, tmp_path / "wider")}))
    with pytest.raises(BadAdapter, match="does not fit"):
        run(config(lora_path=odd))
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gguf_path": Path("folder")}, "--gguf-path folder is a folder"),
        ({"gguf_path": Path()}, r"--gguf-path \. is a folder"),
        ({"gguf_path": Path("new/..")}, r"--gguf-path new/\.\. is a folder"),
        ({"gguf_path": Path('a"b.gguf')}, "cannot stand in a Modelfile"),
        ({"gguf_path": Path("modelfile")}, "--gguf-path modelfile is the place of the Modelfile"),
        ({"gguf_path": Path("x.gguf"), "lora_gguf": Path("folder/../x.gguf")}, r"--lora-gguf folder/\.\./x\.gguf is the place of the GGUF"),
        ({"lora_gguf": Path("Modelfile")}, "--lora-gguf Modelfile is the place of the Modelfile"),
        ({"gguf_path": Path("m"), "merged_dir": Path("m")}, "--gguf-path m is the place of the merged model"),
        ({"lora_gguf": Path("folder")}, "--lora-gguf folder is a folder"),
    ],
)
def test_a_name_that_cannot_be_written_is_told_before_any_work(config: Callable[..., ExportConfig], changes: dict[str, Path], said: str) -> None:
    Path("folder").mkdir()
    with pytest.raises(BadValue, match=said):
        run(config(keep_merged=True, **changes))
    assert [path.name for path in Path().rglob("*")] == ["folder"]


def test_a_folder_called_modelfile_is_told_before_any_work(config: Callable[..., ExportConfig]) -> None:
    Path("Modelfile").mkdir()
    with pytest.raises(CannotWrite, match="Modelfile is a folder"):
        run(config(keep_merged=True))
    assert [path.name for path in Path().iterdir()] == ["Modelfile"]


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 8}}, "longrope"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_an_unsupported_model_is_refused(config: Callable[..., ExportConfig], tmp_path: Path, lora: Path, change: dict[str, Any], said: str) -> None:
    adapter = with_changed_base(open_base("tiny").folder, tmp_path / "model", lora, change)
    with pytest.raises(UnsupportedModel, match=said):
        run(config(lora_path=adapter))
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_model_without_sentencepiece_is_refused(config: Callable[..., ExportConfig], tmp_path: Path, lora: Path) -> None:
    adapter = with_changed_base(open_base("tiny").folder, tmp_path / "model", lora, {})
    (tmp_path / "model" / "tokenizer.model").rename(tmp_path / "model" / "tokenizer.json")
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.model"):
        run(config(lora_path=adapter, keep_merged=True, lora_gguf=Path("lora.gguf"), imatrix="auto"))
    assert not list(Path().glob("*.gguf*"))
    assert not Path("merged_model").exists()


def test_a_base_cut_off_or_not_finite_is_found(config: Callable[..., ExportConfig], tmp_path: Path, lora: Path) -> None:
    adapter = with_changed_base(open_base("tiny").folder, tmp_path / "model", lora, {})
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
