"""The metadata of a GGUF: what llama.cpp and Ollama need to run the model, and where it comes from.

Keys, types and order are those of llama.cpp's converter (conversion/base.py, conversion/llama.py) followed by llama-quantize, which puts the
last two at the end. docs/export.md lists every difference; tests/golden/gguf_metadata.txt is what is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from papertune.base import Base
from papertune.export.gguf import Entry
from papertune.export.mix import Mix
from papertune.export.vocabulary import Vocabulary
from papertune.family import head_size, key_value_heads, rope_theta

QUANTIZATION_VERSION = 2  # ggml's GGML_QNT_VERSION


def describe(base: Base, vocabulary: Vocabulary, mix: Mix, *, name: str, provenance: Mapping[str, str]) -> list[Entry]:
    """All entries for a tuned ``base`` called ``name``."""
    config, family = base.config, base.family
    arch = family.gguf_architecture
    entries = [
        Entry("general.architecture", "str", arch),
        Entry("general.type", "str", "model"),
        Entry("general.name", "str", name),
        *([Entry("general.license", "str", licence)] if (licence := licence_of(base.folder)) else []),
        *(Entry(f"papertune.{key}", "str", value) for key, value in sorted(provenance.items())),
        Entry(f"{arch}.block_count", "u32", config["num_hidden_layers"]),
        Entry(f"{arch}.context_length", "u32", int(config.get("max_position_embeddings", 2048))),
        Entry(f"{arch}.embedding_length", "u32", config["hidden_size"]),
        Entry(f"{arch}.feed_forward_length", "u32", config["intermediate_size"]),
        Entry(f"{arch}.attention.head_count", "u32", config["num_attention_heads"]),
        Entry(f"{arch}.attention.head_count_kv", "u32", key_value_heads(config)),
        Entry(f"{arch}.rope.freq_base", "f32", rope_theta(config)),
        Entry(f"{arch}.attention.layer_norm_rms_epsilon", "f32", float(config.get("rms_norm_eps", 1e-6))),
        Entry(f"{arch}.attention.key_length", "u32", head_size(config)),
        Entry(f"{arch}.attention.value_length", "u32", head_size(config)),
    ]
    if config.get("sliding_window"):
        entries.append(Entry(f"{arch}.attention.sliding_window", "u32", config["sliding_window"]))
    entries += [
        Entry(f"{arch}.vocab_size", "u32", config["vocab_size"]),
        Entry(f"{arch}.rope.dimension_count", "u32", head_size(config)),
        *_tokenizer(vocabulary),
        Entry("general.quantization_version", "u32", QUANTIZATION_VERSION),
        Entry("general.file_type", "u32", mix.file_type),
    ]
    return entries


def licence_of(folder: Path) -> str:
    """The licence that the model card names (``license: apache-2.0`` in README.md's front matter), or nothing."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    front = card.split("---", 2)[1] if card.startswith("---") and card.count("---") > 1 else ""
    found = re.search(r"^license:[ \t]*([\w.-]+)[ \t]*$", front, re.MULTILINE)
    return found[1] if found else ""


def _tokenizer(vocabulary: Vocabulary) -> list[Entry]:
    entries = []
    if vocabulary.space_prefix is not None:
        entries.append(Entry("tokenizer.ggml.add_space_prefix", "bool", vocabulary.space_prefix))
    entries += [
        Entry("tokenizer.ggml.model", "str", "llama"),
        Entry("tokenizer.ggml.pre", "str", "default"),
        Entry("tokenizer.ggml.tokens", "[str]", vocabulary.tokens),
        Entry("tokenizer.ggml.scores", "[f32]", vocabulary.scores),
        Entry("tokenizer.ggml.token_type", "[i32]", vocabulary.types),
        Entry("tokenizer.ggml.bos_token_id", "u32", vocabulary.bos),
        Entry("tokenizer.ggml.eos_token_id", "u32", vocabulary.eos),
    ]
    if vocabulary.unknown is not None:
        entries.append(Entry("tokenizer.ggml.unknown_token_id", "u32", vocabulary.unknown))
    if vocabulary.padding is not None:
        entries.append(Entry("tokenizer.ggml.padding_token_id", "u32", vocabulary.padding))
    entries.append(Entry("tokenizer.ggml.add_bos_token", "bool", True))
    entries.append(Entry("tokenizer.ggml.add_eos_token", "bool", False))
    return entries
