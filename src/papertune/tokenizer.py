"""Text to token numbers and back, in the base model's own vocabulary.

``tokenizer.model`` (SentencePiece) is the reference where a model has one: it is what the model was trained with, and what the GGUF carries.
Only without it is ``tokenizer.json`` read, with the tokenizers library. Neither adds begin or end tokens here; callers place them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from papertune.errors import BadModel, MissingLibrary

SENTENCEPIECE = "tokenizer.model"
JSON = "tokenizer.json"


class Tokenizer(Protocol):
    """``bos`` and ``eos`` are the numbers of the begin and end tokens; ``size`` is how many tokens there are."""

    bos: int
    eos: int
    size: int

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``, without begin or end token."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens; begin and end tokens give nothing."""


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of the model in this folder. Raises BadModel when there is none or it is damaged, MissingLibrary."""
    for name, reader in ((SENTENCEPIECE, _SentencePiece), (JSON, _Json)):
        path = folder / name
        if path.is_file():
            try:
                return reader(path)
            except ImportError as error:
                raise MissingLibrary(f"{error.name} is not installed; it reads {path}.", f"Run: pip install {error.name}") from error
            except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
                raise BadModel(f"{path} is not a tokenizer: {error}.", "Download the model again.") from error
            except Exception as error:  # tokenizers raises bare Exception for a file it cannot parse
                if type(error) is not Exception:
                    raise
                raise BadModel(f"{path} is not a tokenizer: {error}.", "Download the model again.") from error
    raise BadModel(f"{folder} has neither {SENTENCEPIECE} nor {JSON}.", "Download the model again, with its tokenizer.")


class _SentencePiece:
    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor: Any = SentencePieceProcessor(model_proto=path.read_bytes())  # bytes: its own file reading fails on some paths on Windows
        self.bos: int = self._processor.bos_id()
        self.eos: int = self._processor.eos_id()
        self.size: int = self._processor.vocab_size()
        if self.bos < 0 or self.eos < 0:
            raise ValueError("it has no begin and end tokens")

    def encode(self, text: str) -> list[int]:
        return list(self._processor.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._processor.decode(list(ids)))


class _Json:
    """``tokenizer_config.json`` beside it says which tokens begin and end a text."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Reader

        self._reader: Any = Reader.from_file(str(path))
        named = json.loads(path.with_name("tokenizer_config.json").read_text(encoding="utf-8"))
        self.bos, self.eos = (self._id(named[key]) for key in ("bos_token", "eos_token"))
        self.size: int = self._reader.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return list(self._reader.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._reader.decode(list(ids), skip_special_tokens=True))

    def _id(self, token: Any) -> int:
        word = token["content"] if isinstance(token, dict) else token
        number = self._reader.token_to_id(word)
        if number is None:
            raise ValueError(f"it has no token {word!r}")
        return int(number)
