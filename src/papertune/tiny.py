"""The built-in model ``tiny``: Mistral's architecture and tokenizer at toy size, made on the spot from a fixed seed.

It lets every step run in minutes without a download, a login or a GPU. It is no language model; it knows two things, both taken from
the vocabulary alone, so that there is something for fine-tuning to build on:

* how common a token is, roughly: Zipf's law over its rank in the vocabulary;
* how a token is spelt: 23 facts such as "starts a word", "capital", "digit", "Latin letters", "ends in a vowel".

The residual stream has 32 columns. Column 0 is 1 for every token; the output head's column 0 is the Zipf log-probability, so that an untuned
tiny predicts word frequencies. The other columns carry the spelling, in at the embedding and out at the head, and are too small to matter
until LoRA weights learn to write into them. Everything else is small uniform noise.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papertune.errors import MissingLibrary, from_os_error
from papertune.files import make_folder, sync_folder, write_text
from papertune.tokenizer import SENTENCEPIECE

if TYPE_CHECKING:
    import numpy as np

VERSION = 2  # part of the folder's name: raise it with any change to the bytes
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD = 32, 64, 2, 4, 2, 8

CONFIG: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": HEAD,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 32000,
}


def make_tiny(cache: Path) -> Path:
    """The folder of the tiny model under ``cache``, made there if it is not yet. Raises MissingLibrary, DiskFull or CannotWrite."""
    folder = cache / f"tiny-{VERSION}"
    if folder.is_dir():
        return folder
    make_folder(cache)
    try:
        beside = Path(tempfile.mkdtemp(prefix=f"tiny-{VERSION}-", dir=cache))
        try:
            _write(beside)
            os.replace(beside, folder)
            sync_folder(cache)
        except OSError:
            if not folder.is_dir():  # else another process made it meanwhile, and an existing folder is not replaced
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise from_os_error(error, folder) from error
    return folder


def tokenizer_bytes() -> bytes:
    """Mistral's own SentencePiece model, as the package mistral-common (Apache-2.0) carries it."""
    try:
        return (resources.files("mistral_common") / "data" / "tokenizer.model.v1").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        what = "mistral-common is not installed; it carries the tokenizer of the tiny model."
        raise MissingLibrary(what, "Run: pip install mistral-common") from error


def _write(folder: Path) -> None:
    tokenizer = tokenizer_bytes()
    (folder / "model.safetensors").write_bytes(_safetensors(_tensors(tokenizer)))
    (folder / SENTENCEPIECE).write_bytes(tokenizer)
    write_text(folder / "config.json", json.dumps(CONFIG, indent=2) + "\n")
    write_text(folder / "generation_config.json", json.dumps({"bos_token_id": 1, "eos_token_id": 2}, indent=2) + "\n")
    words = {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_text(folder / "tokenizer_config.json", json.dumps({**words, "tokenizer_class": "LlamaTokenizer", "legacy": True}, indent=2) + "\n")


def _tensors(tokenizer: bytes) -> dict[str, np.ndarray]:
    """Hugging Face names to float32 arrays. Only exact arithmetic and IEEE-rounded functions, so that every machine makes the same bytes."""
    import numpy as np
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_proto=tokenizer)
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    random = np.random.Generator(np.random.PCG64(20231010))

    def noise(*shape: int, scale: float) -> np.ndarray:
        return random.integers(-128, 128, shape).astype(np.float32) / 128 * scale

    spelling = np.array([[fact(piece) for fact in FACTS] for piece in pieces], dtype=np.float32)
    spelling -= spelling.mean(axis=0)
    facts = spelling.shape[1]
    embedding, head = noise(len(pieces), HIDDEN, scale=0.25), noise(len(pieces), HIDDEN, scale=0.25)
    embedding[:, 1 : 1 + facts] = spelling
    head[:, 1 : 1 + facts] = spelling
    embedding[:, 0], head[:, 0] = 4.0, _zipf(pieces)
    final = np.ones(HIDDEN, dtype=np.float32)
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": final, "lm_head.weight": head}
    shapes = {  # with the size of their noise: strong inside a block and weak where it writes, so that LoRA learns soon and the prior stands
        "self_attn.q_proj": (HEADS * HEAD, HIDDEN, 0.05),
        "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN, 0.05),
        "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN, 0.3),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD, 0.02),
        "mlp.gate_proj": (INNER, HIDDEN, 0.3),
        "mlp.up_proj": (INNER, HIDDEN, 0.3),
        "mlp.down_proj": (HIDDEN, INNER, 0.02),
    }
    for i in range(LAYERS):
        for name, (rows, columns, scale) in shapes.items():
            tensors[f"model.layers.{i}.{name}.weight"] = noise(rows, columns, scale=scale)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{name}.weight"] = np.full(HIDDEN, 2.0, dtype=np.float32)
    return tensors


def _zipf(pieces: list[str]) -> np.ndarray:
    """Log-probability of each token up to a constant: 1 / rank, single characters ranked among themselves; rare for everything special."""
    import numpy as np

    first_character = next(i for i, piece in enumerate(pieces) if i > 258 and len(piece) == 1)
    rank = np.arange(len(pieces), dtype=np.float32) - 258
    rank[first_character:] -= first_character - 259
    log = np.log(np.maximum(rank, 1) + 8).astype(np.float32)
    log[:259] = log.max()
    return np.asarray(-log / 4, dtype=np.float32)


def _script(low: int, high: int) -> Callable[[str], bool]:
    return lambda piece: any(low <= ord(c) <= high for c in piece)


def _letters(piece: str) -> str:
    return piece.removeprefix("▁")


FACTS: tuple[Callable[[str], bool], ...] = (
    lambda p: p.startswith("▁"),
    lambda p: p.isascii() or p.replace("▁", "").isascii(),
    lambda p: _letters(p).islower(),
    lambda p: _letters(p)[:1].isupper(),
    lambda p: _letters(p).isupper(),
    lambda p: _letters(p).isdigit(),
    lambda p: not any(c.isalnum() for c in _letters(p)),
    lambda p: p.startswith("<0x"),
    lambda p: any(c in "A_{}()[]<>=;:/\\$#@&|*\"'" for c in p),
    lambda p: len(_letters(p)) == 1,
    lambda p: len(_letters(p)) == 2,
    lambda p: len(_letters(p)) >= 5,
    lambda p: len(_letters(p)) >= 8,
    lambda p: _letters(p)[-1:] in "aeiou",
    lambda p: _letters(p)[:1] in "aeiou",
    lambda p: _letters(p).endswith(("s", "es")),
    lambda p: _letters(p).endswith(("ed", "en")),
    lambda p: _letters(p).endswith(("ing", "ion", "ions", "ment", "ity")),
    lambda p: _letters(p).endswith(("ly", "al", "ic", "ive")),
    lambda p: any(c.isupper() for c in _letters(p)[1:]),
    _script(0x400, 0x4FF),
    _script(0xC0, 0x24F),
    _script(0x2E80, 0xFFFF),
)


def _safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """The tensors as bfloat16 in a safetensors file, written by hand: numpy has no bfloat16, and the bytes must not hang on a library's version."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, end = [], 0
    for name, tensor in tensors.items():
        data = _bfloat16(tensor).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounded to nearest, ties to even; as the upper half of the float32 bits."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
