"""A base model is found and checked before anything heavy begins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from papertune import base, tiny
from papertune.errors import BadModel, ModelAccess, PapertuneError, UnsupportedModel


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.make_tiny(tmp_path / "cache"), tmp_path / "model"))


def test_tiny_and_a_folder_are_the_same_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERTUNE_CACHE", str(model.parent / "cache"))
    built_in, folder = base.open_base("tiny"), base.open_base(str(model))
    assert built_in.fingerprint() == folder.fingerprint()
    assert (built_in.name, folder.name, folder.family.name) == ("tiny", str(model), "mistral")


def test_the_fingerprint_knows_changed_weights_and_settings(model: Path) -> None:
    whole = base.open_base(str(model)).fingerprint()
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = base.open_base(str(model)).fingerprint()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rope_theta": 1e6}))
    assert len({whole, changed, base.open_base(str(model)).fingerprint()}) == 3


def test_shards_are_read_from_the_index_and_a_missing_one_is_named(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadModel, match=r"lacks model-00002-of-00002\.safetensors \(1 of 2"):
        base.open_base(str(model))
    (model / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert len(base.open_base(str(model)).weight_files) == 2


@pytest.mark.parametrize(
    ("missing", "words"), [("config.json", r"no config\.json"), ("model.safetensors", r"no model\.safetensors"), ("tokenizer.model", "neither")]
)
def test_a_missing_file_is_named(model: Path, missing: str, words: str) -> None:
    (model / missing).unlink()
    with pytest.raises(BadModel, match=words):
        base.open_base(str(model))


def test_pickled_weights_are_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(BadModel, match="pickles"):
        base.open_base(str(model))


def test_another_architecture_is_refused(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    with pytest.raises(UnsupportedModel, match="Mamba"):
        base.open_base(str(model))


def test_a_name_that_is_neither_folder_nor_hub_name(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="no such folder"):
        base.open_base(str(tmp_path / "nothing"))


def hub_answer(monkeypatch: pytest.MonkeyPatch, answer: Exception | Path) -> list[dict[str, Any]]:
    """Makes the hub answer so; returns what it was asked."""
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def http_error(kind: str, status: int) -> Exception:
    from huggingface_hub import errors

    response = SimpleNamespace(headers={}, request=None)  # all that the error looks at; the library behind it changes between versions
    error: Exception = getattr(errors, kind)(f"{status} Client Error.\nMore lines.", response=response)
    return error


class CutOff(Exception):
    """A connection that broke in the middle, as httpx and its likes tell it: no OSError."""

    __module__ = "httpx.anything"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: http_error("GatedRepoError", 403), "consent"),
        (lambda: http_error("RepositoryNotFoundError", 401), "not on the hub, or is private"),
        (lambda: http_error("HfHubHTTPError", 500), "500"),
        (lambda: ConnectionError("no route to host"), "no route"),
        (lambda: CutOff("peer closed connection"), "peer closed"),
        (lambda: __import__("huggingface_hub").errors.LocalEntryNotFoundError("cannot find the file, check your connection"), "connection"),
    ],
)
def test_no_access_is_one_line_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch, make: Any, words: str) -> None:
    hub_answer(monkeypatch, make())
    with pytest.raises(ModelAccess, match=words) as caught:
        base.open_base("mistralai/Mistral-7B-v0.1")
    text = str(caught.value)
    assert "\n" not in text
    assert "https://huggingface.co/mistralai/Mistral-7B-v0.1" in text
    assert "hf auth login" in text
    assert "huggingface-cli login" in text


def test_only_weights_tokenizer_and_settings_are_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    from fnmatch import fnmatch

    asked = hub_answer(monkeypatch, model)
    assert base.open_base("mistralai/Mistral-7B-v0.1").folder == model
    patterns = asked[0]["allow_patterns"]
    wanted = {"config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.model", "tokenizer.json"}
    unwanted = {"pytorch_model-00001-of-00002.bin", "consolidated.safetensors", "modeling_mistral.py", "README.md", "training_args.bin"}
    assert {name for name in wanted | unwanted if any(fnmatch(name, pattern) for pattern in patterns)} == wanted


def test_a_full_disk_while_downloading(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_answer(monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(PapertuneError) as caught:
        base.open_base("mistralai/Mistral-7B-v0.1")
    assert caught.value.id == "disk-full"
