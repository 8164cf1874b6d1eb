"""The metadata of a GGUF: pinned key for key, and held against what llama.cpp's own converter and llama-quantize write."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from papertune.base import open_base, open_folder
from papertune.export.gguf import Entry
from papertune.export.metadata import describe
from papertune.export.mix import MIXES
from papertune.export.vocabulary import CONTROL, USER, read_vocabulary

GOLDEN = Path(__file__).parents[1] / "golden" / "gguf_metadata.txt"

# What conversion/base.py and conversion/llama.py write for a plain Mistral or Llama with tokenizer.model, in the order in which llama-quantize
# leaves it. Compared by reading them (llama.cpp of autumn 2026); the package gguf, their common writer, is compared with below.
CONVERTER = [
    "general.architecture",
    "general.type",
    "general.name",
    "general.size_label",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.rope.freq_base",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.vocab_size",
    "llama.rope.dimension_count",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "general.quantization_version",
    "general.file_type",
]
LEFT_OUT = {"general.size_label"}
OURS = {"general.license", "llama.attention.sliding_window", "papertune.base", "papertune.base.fingerprint"}


def folder_like_tiny(to: Path, *, config: dict[str, object] | None = None, tokenizer: dict[str, object] | None = None) -> Path:
    shutil.copytree(open_base("tiny").folder, to)
    for name, change in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        settings = json.loads((to / name).read_text())
        (to / name).write_text(json.dumps({**settings, **(change or {})}))
    return to


def entries(folder: Path, quant: str = "Q4_K_M") -> list[Entry]:
    base = open_folder(folder, folder.name)
    vocabulary = read_vocabulary(folder, base.config["vocab_size"])
    provenance = {"base": "some/base", "base.fingerprint": "0123"}
    return describe(base, vocabulary, MIXES[quant], name="scientific-mistral", provenance=provenance)


def line(entry: Entry) -> str:
    if isinstance(entry.value, list):
        digest = hashlib.sha256(repr(entry.value).encode()).hexdigest()[:16]
        return f"{entry.key} {entry.kind} {len(entry.value)} values {digest}"
    return f"{entry.key} {entry.kind} {entry.value}"


def test_every_key_type_and_value_is_as_it_was() -> None:
    """A change of this file is a change of every GGUF: write it anew with PAPERTUNE_GOLDEN=1 and read the difference."""
    text = "".join(line(entry) + "\n" for entry in entries(open_base("tiny").folder))
    if os.environ.get("PAPERTUNE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_keys_and_order_are_those_of_llama_cpp_but_for_the_listed_differences(tmp_path: Path) -> None:
    folder = folder_like_tiny(tmp_path / "m", config={"pad_token_id": 2, "sliding_window": 64}, tokenizer={"add_prefix_space": True})
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    keys = [entry.key for entry in entries(folder)]
    assert [key for key in keys if key not in OURS] == [key for key in CONVERTER if key not in LEFT_OUT]
    assert set(keys) >= OURS


def test_a_head_width_that_the_model_leaves_out_is_written_as_transformers_fills_it_in(tmp_path: Path) -> None:
    folder = folder_like_tiny(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config.pop("head_dim", None)
    (folder / "config.json").write_text(json.dumps(config))
    values = {entry.key: entry.value for entry in entries(folder)}
    width = config["hidden_size"] // config["num_attention_heads"]
    assert values["llama.attention.key_length"] == values["llama.attention.value_length"] == values["llama.rope.dimension_count"] == width


def test_special_tokens_are_those_that_the_package_gguf_reads(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder = folder_like_tiny(tmp_path / "m", config={"pad_token_id": 2}, tokenizer={"add_bos_token": True, "add_eos_token": False})
    read = gguf.SpecialVocab(folder, load_merges=False)
    ours = {entry.key: entry.value for entry in entries(folder)}
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    assert read.special_token_ids.keys() >= {"bos", "eos", "pad"}
    assert {key: ours[f"tokenizer.ggml.{names[key]}_token_id"] for key in read.special_token_ids} == read.special_token_ids
    assert {key: ours[f"tokenizer.ggml.add_{key}_token"] for key in read.add_special_token} == read.add_special_token


def test_added_tokens_get_the_converters_types_and_scores(tmp_path: Path) -> None:
    added = {
        "1": {"content": "<s>", "special": True},
        "700": {"content": "▁new▁word", "special": False},
        "701": {"content": "<|im_end|>", "special": False},
    }
    folder = folder_like_tiny(tmp_path / "m", tokenizer={"added_tokens_decoder": added})
    (folder / "added_tokens.json").write_text(json.dumps({"plain▁one": 702}))
    vocabulary = read_vocabulary(folder, 32000)
    assert [vocabulary.tokens[i] for i in (1, 700, 701, 702)] == [b"<s>", b" new word", b"<|im_end|>", "plain▁one".encode()]
    assert [vocabulary.types[i] for i in (1, 700, 701, 702)] == [CONTROL, USER, CONTROL, USER]
    assert [vocabulary.scores[i] for i in (1, 700, 701, 702)] == [-1000.0] * 4
