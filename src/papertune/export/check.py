"""A GGUF file run by llama.cpp itself, to see that it reads and writes what the model should.

llama.cpp comes inside the optional package xllamacpp; its C functions are called by ctypes (header: llama.cpp's include/llama.h), because the
package's own interface is a web server and gives no logits. Parameter structures are passed as llama.cpp fills them, opaque but for the
three counts they begin with, so a field added further down does not matter.
"""

from __future__ import annotations

import ctypes as c
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from papertune.device import cores
from papertune.errors import BadGguf, MissingLibrary
from papertune.export.gguf import read_head

_REMEDY = "Run: pip install xllamacpp"


class _Opaque(c.Structure):
    """llama_model_params or llama_context_params: larger than either, which the calling conventions allow for a last argument."""

    _fields_ = (("counts", c.c_uint32 * 3), ("rest", c.c_uint32 * 125))


class _Batch(c.Structure):
    _fields_ = (
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.POINTER(c.c_float)),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    )


_SILENCE = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_log_set": (None, (c.c_void_p, c.c_void_p)),
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (_Opaque, ()),
    "llama_context_default_params": (_Opaque, ()),
    "llama_model_load_from_file": (c.c_void_p, (c.c_char_p, _Opaque)),
    "llama_init_from_model": (c.c_void_p, (c.c_void_p, _Opaque)),
    "llama_model_free": (None, (c.c_void_p,)),
    "llama_free": (None, (c.c_void_p,)),
    "llama_set_n_threads": (None, (c.c_void_p, c.c_int32, c.c_int32)),
    "llama_model_get_vocab": (c.c_void_p, (c.c_void_p,)),
    "llama_vocab_n_tokens": (c.c_int32, (c.c_void_p,)),
    "llama_vocab_bos": (c.c_int32, (c.c_void_p,)),
    "llama_vocab_is_eog": (c.c_bool, (c.c_void_p, c.c_int32)),
    "llama_tokenize": (c.c_int32, (c.c_void_p, c.c_char_p, c.c_int32, c.POINTER(c.c_int32), c.c_int32, c.c_bool, c.c_bool)),
    "llama_token_to_piece": (c.c_int32, (c.c_void_p, c.c_int32, c.c_char_p, c.c_int32, c.c_int32, c.c_bool)),
    "llama_get_memory": (c.c_void_p, (c.c_void_p,)),
    "llama_memory_clear": (None, (c.c_void_p, c.c_bool)),
    "llama_decode": (c.c_int32, (c.c_void_p, _Batch)),
    "llama_get_logits_ith": (c.POINTER(c.c_float), (c.c_void_p, c.c_int32)),
}


@cache
def _library() -> Any:
    """llama.cpp with its log turned off. Raises MissingLibrary."""
    spec = importlib.util.find_spec("xllamacpp")
    folders = list(spec.submodule_search_locations or []) if spec else []
    binaries = [path for folder in folders for path in sorted(Path(folder).glob("xllamacpp*")) if path.suffix in (".so", ".pyd")]
    if not binaries:
        raise MissingLibrary("xllamacpp is not installed; it runs GGUF files.", _REMEDY)
    try:
        library = c.CDLL(str(binaries[0]))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise MissingLibrary(f"xllamacpp is installed but cannot be used here: {error}.", _REMEDY) from error
    library.llama_log_set(c.cast(_SILENCE, c.c_void_p), None)
    library.llama_backend_init()
    return library


def available() -> bool:
    """Whether GGUF files can be run here."""
    try:
        return _library() is not None
    except MissingLibrary:
        return False


def load_gguf(path: Path, context: int = 2048) -> Gguf:
    """The model in this file, with room for ``context`` tokens. Raises MissingLibrary or BadGguf."""
    read_head(path)  # llama.cpp itself may abort on a damaged file
    return Gguf(_library(), path, context)


class Gguf:
    """A loaded model; a context manager. Not for use from several threads."""

    def __init__(self, library: Any, path: Path, context: int) -> None:
        self._lib, self._context = library, None
        self.room = context
        self._model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
        if not self._model:
            raise BadGguf(f"llama.cpp cannot load {path}.", "Run export_model.py again.")
        params = library.llama_context_default_params()
        params.counts[0], params.counts[1], params.counts[2] = context, context, min(context, 512)  # n_ctx, n_batch, n_ubatch
        self._context = library.llama_init_from_model(self._model, params)
        if not self._context:
            self.close()
            raise BadGguf(f"llama.cpp cannot run {path} with {context} tokens.", "Close other programs, or export with a smaller --quant.")
        library.llama_set_n_threads(self._context, cores(), cores())
        self._vocab = library.llama_model_get_vocab(self._model)
        self.size = int(library.llama_vocab_n_tokens(self._vocab))
        self.bos = int(library.llama_vocab_bos(self._vocab))

    def tokenize(self, text: str) -> list[int]:
        """The tokens of ``text``, without begin or end token; special tokens in it are read as plain text."""
        raw = text.encode()
        room = len(raw) + 8
        buffer = (c.c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocab, raw, len(raw), buffer, room, False, False)
        return list(buffer[:count])

    def text(self, ids: Sequence[int]) -> str:
        """The text of these tokens as it stands within a longer one: a word's leading space is kept."""
        pieces = []
        buffer = c.create_string_buffer(256)
        for token in ids:
            length = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            pieces.append(buffer.raw[: max(length, 0)])
        return b"".join(pieces).decode("utf-8", "replace")

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """(len(ids), vocabulary) logits of the token after each, for at most ``room`` tokens read from the beginning."""
        self._clear()
        self._decode(ids, 0, every=True)
        return np.stack([self._logits(i) for i in range(len(ids))])

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """The ``count`` likeliest tokens after ``ids``, one after the other; end tokens do not stop it."""
        self._clear()
        self._decode(ids, 0)
        written: list[int] = []
        for place in range(len(ids), len(ids) + count):
            written.append(int(np.argmax(self._logits(-1))))
            self._decode(written[-1:], place)
        return written

    def generate(self, prompt: str, max_tokens: int, seed: int = 0, temperature: float = 0.8) -> str:
        """What the model writes after ``prompt``: at most ``max_tokens``, up to its end token. Temperature 0 is greedy."""
        random = np.random.default_rng(seed)

        def choose(logits: NDArray[np.float32]) -> int:
            if temperature <= 0:
                return int(np.argmax(logits))
            weights = np.exp((logits - logits.max()).astype(np.float64) / temperature)
            return int(random.choice(weights.size, p=weights / weights.sum()))

        written: list[int] = []
        ids = [self.bos, *self.tokenize(prompt)][-(self.room - 1) :]
        self._clear()
        self._decode(ids, 0)
        for place in range(len(ids), min(len(ids) + max_tokens, self.room)):
            token = choose(self._logits(-1))
            if self._lib.llama_vocab_is_eog(self._vocab, token):
                break
            written.append(token)
            self._decode([token], place)
        return self.text(written)

    def close(self) -> None:
        if self._context:
            self._lib.llama_free(self._context)
        if self._model:
            self._lib.llama_model_free(self._model)
        self._context = self._model = None

    def __enter__(self) -> Gguf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _clear(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def _logits(self, place: int) -> NDArray[np.float32]:
        pointer = self._lib.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(pointer, (self.size,)).copy()

    def _decode(self, ids: Sequence[int], first: int, *, every: bool = False) -> None:
        """Reads ``ids`` at positions ``first`` … and keeps the logits of the last one, or of ``every`` one."""
        count = len(ids)
        sequence = (c.c_int32 * 1)(0)
        batch = _Batch(
            count,
            (c.c_int32 * count)(*ids),
            None,
            (c.c_int32 * count)(*range(first, first + count)),
            (c.c_int32 * count)(*[1] * count),
            (c.POINTER(c.c_int32) * count)(*[c.cast(sequence, c.POINTER(c.c_int32))] * count),
            (c.c_int8 * count)(*[1 if every else 0] * (count - 1), 1),
        )
        status = self._lib.llama_decode(self._context, batch)
        if status:
            raise BadGguf(f"llama.cpp stopped with status {status} after {first + count} tokens.", "Run export_model.py again.")
