"""The tokenizer as GGUF holds it: every token's bytes, score and type, from SentencePiece's ``tokenizer.model``.

The scores matter: llama.cpp merges the pair with the best score first. A converter that reads ``tokenizer.json`` in their place writes
−1000 for all of them, and the model then reads and writes gibberish.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from papertune.errors import BadModel, UnsupportedModel
from papertune.tokenizer import SENTENCEPIECE

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's llama_token_type
_ADDED_SCORE, _PADDING_SCORE = -1000.0, -10000.0


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``tokens``, ``scores`` and ``types`` have one element a row of the embedding; special tokens are None where the model has none."""

    tokens: list[bytes]
    scores: list[float]
    types: list[int]
    bos: int
    eos: int
    unknown: int | None
    padding: int | None
    space_prefix: bool | None


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The vocabulary of the model in ``folder``, padded to ``size`` tokens. Raises UnsupportedModel or BadModel."""
    path = folder / SENTENCEPIECE
    if not path.is_file():
        what = f"{folder} has no {SENTENCEPIECE}; its kind of tokenizer cannot be written into a GGUF by papertune yet."
        raise UnsupportedModel(what, "If the model is a Mistral 7B, put the tokenizer.model of its hub page there.")
    from sentencepiece import SentencePieceProcessor

    try:
        pieces: Any = SentencePieceProcessor(model_proto=path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise BadModel(f"{path} is not a tokenizer: {error}.", "Download the model again.") from error
    count = pieces.vocab_size()
    if count > size:
        raise BadModel(f"{path} has {count} tokens, but the model only {size}.", "Use the tokenizer that belongs to the model.")
    tokens = [pieces.IdToPiece(i).encode() for i in range(count)] + [f"[PAD{i}]".encode() for i in range(count, size)]
    scores = [pieces.GetScore(i) for i in range(count)] + [_PADDING_SCORE] * (size - count)
    types = [_type(pieces, i) for i in range(count)] + [UNUSED] * (size - count)
    settings = _read(folder / "tokenizer_config.json")
    for number, content, special in _added(folder, settings):  # also tokens of SentencePiece's own, such as <s>, which become control tokens
        if number >= size:
            raise BadModel(f"{folder}: the added token {content!r} has number {number} of {size}.", "Download the model again.")
        tokens[number] = content.encode()
        types[number] = CONTROL if special else USER
        scores[number] = _ADDED_SCORE
    config = _read(folder / "config.json")
    prefix = settings.get("add_prefix_space")
    return Vocabulary(
        tokens=tokens,
        scores=scores,
        types=types,
        bos=pieces.bos_id(),
        eos=pieces.eos_id(),
        unknown=pieces.unk_id() if pieces.unk_id() >= 0 else None,
        padding=_id(config.get("pad_token_id"), size),
        space_prefix=prefix if isinstance(prefix, bool) else None,
    )


def _type(pieces: Any, number: int) -> int:
    if pieces.IsUnknown(number):
        return UNKNOWN
    if pieces.IsControl(number):
        return CONTROL
    if pieces.IsUnused(number):
        return UNUSED
    return BYTE if pieces.IsByte(number) else NORMAL


def _added(folder: Path, settings: dict[str, Any]) -> list[tuple[int, str, bool]]:
    """(number, content, special) of the tokens that transformers adds to SentencePiece's."""
    added = [(int(number), str(content), False) for content, number in _read(folder / "added_tokens.json").items()]
    decoder = settings.get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        content = str(token["content"])
        special = bool(token.get("special")) or _looks_special(content)
        added.append((int(number), content if special else content.replace("▁", " "), special))
    return added


def _looks_special(content: str) -> bool:
    """Control tokens that some models do not mark as such (``does_token_look_special`` of llama.cpp's converter)."""
    return (
        content in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (content.startswith(("<|", "<｜")) and content.endswith(("|>", "｜>")))
        or (content.startswith("<unused") and content.endswith(">"))
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty when there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadModel(f"{path} cannot be read: {error}.", "Download the model again.") from error
    return value if isinstance(value, dict) else {}


def _id(value: Any, size: int) -> int | None:
    return value if isinstance(value, int) and 0 <= value < size else None
