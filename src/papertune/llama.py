"""A GGUF model in this process: llama.cpp through its C interface, as the package xllamacpp carries it, without a server.

What llama.cpp declares in ``llama.h``: settings travel as structs by value, made by ``…_default_params()``. Their later fields move between
versions, the first three of the context's (n_ctx, n_batch, n_ubatch) do not. So a struct here is a block of memory at least as large as
any of them, handed on as it came but for those three, and llama.cpp is asked afterwards what it understood. Of the model's settings one is
changed, a flag that is found by being the only one that is set. All else has a function.
"""

from __future__ import annotations

import codecs
import ctypes
import sys
from collections.abc import Generator, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from papertune.errors import BadGguf, MissingLibrary, OutOfMemory
from papertune.sampling import Sampler, Sampling

_BATCH = 512  # tokens computed at a time, at most
_FLAGS = 18  # the word of llama_model_params that holds vocab_only, check_tensors, use_extra_bufts and no_host, a byte each
_EXTRA_BUFFERS = int.from_bytes(bytes((0, 0, 1, 0)), sys.byteorder)
_ROWS = 8  # rows of logits whose softmax is taken at a time: 1 MB, which stays in the cache
_REMEDY = "Run: pip install 'papertune[check]'"
_UNKNOWN = "This version of xllamacpp is not the one papertune knows.", _REMEDY


class _Params(ctypes.Structure):
    _fields_ = (("words", c_uint32 * 256),)


class _Batch(ctypes.Structure):
    """``llama_batch``; positions and sequence are left to llama.cpp."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", POINTER(c_int8)),
    )


_LOG = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
_silent = _LOG(lambda _level, _text, _data: None)  # llama.cpp logs to standard error, and a step prints nothing
_SIGNATURES: dict[str, tuple[Any, ...]] = {  # name → result, arguments
    "llama_backend_init": (None,),
    "llama_supports_gpu_offload": (c_bool,),
    "llama_log_set": (None, _LOG, c_void_p),
    "llama_model_default_params": (_Params,),
    "llama_context_default_params": (_Params,),
    "llama_model_load_from_file": (c_void_p, c_char_p, _Params),
    "llama_model_free": (None, c_void_p),
    "llama_model_n_ctx_train": (c_int32, c_void_p),
    "llama_model_get_vocab": (c_void_p, c_void_p),
    "llama_vocab_n_tokens": (c_int32, c_void_p),
    "llama_vocab_bos": (c_int32, c_void_p),
    "llama_vocab_eos": (c_int32, c_void_p),
    "llama_vocab_is_eog": (c_bool, c_void_p, c_int32),
    "llama_tokenize": (c_int32, c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool),
    "llama_token_to_piece": (c_int32, c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool),
    "llama_init_from_model": (c_void_p, c_void_p, _Params),
    "llama_free": (None, c_void_p),
    "llama_n_ctx": (c_uint32, c_void_p),
    "llama_n_batch": (c_uint32, c_void_p),
    "llama_set_n_threads": (None, c_void_p, c_int32, c_int32),
    "llama_get_memory": (c_void_p, c_void_p),
    "llama_memory_clear": (None, c_void_p, c_bool),
    "llama_decode": (c_int32, c_void_p, _Batch),
    "llama_get_logits": (POINTER(c_float), c_void_p),
}


class Gguf:
    """An open GGUF file with room for ``context`` tokens. A context manager; not for several threads.

    With ``repack`` llama.cpp lays 4-bit weights out anew for this processor: tokens come faster one by one, long texts are read slower, and the
    weights are in memory once more beside the file. Without it they stay as they are in the mapped file.
    Raises MissingLibrary without xllamacpp, BadGguf when llama.cpp does not load the file, OutOfMemory when there is no room for the context.
    """

    def __init__(self, path: Path, *, context: int, threads: int, repack: bool = True) -> None:
        if not path.is_file():
            raise BadGguf(f"There is no GGUF file {path}.", "Run export_model.py first, or name the file.")
        self.path = path
        self._library = library = _library()
        self._context = self._model = None
        settings = library.llama_model_default_params()
        if not repack:
            if settings.words[_FLAGS] != _EXTRA_BUFFERS:
                raise MissingLibrary(*_UNKNOWN)
            settings.words[_FLAGS] = 0
        self._model = library.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise BadGguf(f"llama.cpp cannot load {path}.", "Run export_model.py again, or choose another file.")
        self._vocab = library.llama_model_get_vocab(self._model)
        self.tokens: int = library.llama_vocab_n_tokens(self._vocab)
        self.bos: int = library.llama_vocab_bos(self._vocab)
        self.eos: int = library.llama_vocab_eos(self._vocab)
        self.context = min(context, library.llama_model_n_ctx_train(self._model))
        self._batch = min(_BATCH, self.context)
        settings = library.llama_context_default_params()
        settings.words[:3] = self.context, self._batch, self._batch
        self._context = library.llama_init_from_model(self._model, settings)
        if not self._context:
            self.close()
            raise OutOfMemory(f"There is no memory for {self.context} tokens of {path}.", "Choose a smaller --context.")
        if library.llama_n_ctx(self._context) < self.context or library.llama_n_batch(self._context) != self._batch:
            self.close()
            raise MissingLibrary(*_UNKNOWN)
        library.llama_set_n_threads(self._context, threads, threads)

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``, without begin or end token."""
        data = text.encode()
        ids = (c_int32 * (len(data) + 8))()
        count = self._library.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, False)
        return list(ids[:count])

    def count(self, text: str) -> int:
        """How many tokens ``text`` has."""
        return len(self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, without the space that a first word begins with."""
        return b"".join(map(self._piece, ids)).decode(errors="replace").removeprefix(" ")

    def losses(self, ids: Sequence[int], start: int) -> np.ndarray:
        """-ln p of each of ``ids[start:]`` given all before it, float64, in nats. ``start`` is at least 1, ``ids`` fit the context."""
        tokens = np.array(ids, np.int32)
        self._forget()
        parts = []
        for first in range(0, len(tokens), self._batch):
            last = min(first + self._batch, len(tokens))
            asked = np.arange(first, last) >= start - 1
            asked[-1] = True  # llama.cpp wants at least one
            self._compute(tokens[first:last], asked)
            rows = self._logits(int(asked.sum()))
            predicting = np.flatnonzero(asked) + first
            useful = (predicting >= start - 1) & (predicting + 1 < len(tokens))
            parts.append(cross_entropy(rows[useful], tokens[predicting[useful] + 1]))
        return np.concatenate(parts)

    def write(self, prompt: str, sampling: Sampling, most: int) -> Generator[str, None, bool]:
        """Text after ``prompt`` piece by piece, at most ``most`` tokens; returns whether the model itself ended the text.

        A prompt that leaves no room for ``most`` tokens in the context loses its beginning. Raises OutOfMemory.
        """
        ids = [self.bos, *self.encode(prompt)[-(self.context - most - 1) :]]
        self._forget()
        for first in range(0, len(ids), self._batch):
            part = np.array(ids[first : first + self._batch], np.int32)
            self._compute(part, np.arange(len(part)) == len(part) - 1)
        sampler = Sampler(sampling)
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")  # a character may be split over tokens
        for _ in range(most):
            token = sampler.draw(self._logits(1)[0])
            if self._library.llama_vocab_is_eog(self._vocab, token):
                return True
            if piece := utf8.decode(self._piece(token)):
                yield piece
            self._compute(np.array([token], np.int32), np.ones(1, bool))
        return False

    def close(self) -> None:
        if self._context:
            self._library.llama_free(self._context)
        if self._model:
            self._library.llama_model_free(self._model)
        self._context = self._model = None

    def __enter__(self) -> Gguf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _forget(self) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

    def _compute(self, tokens: np.ndarray, asked: np.ndarray) -> None:
        """Feeds tokens after those fed before; logits come for those ``asked``."""
        flags = asked.astype(np.int8)
        batch = _Batch(n_tokens=len(tokens), token=tokens.ctypes.data_as(POINTER(c_int32)), logits=flags.ctypes.data_as(POINTER(c_int8)))
        if self._library.llama_decode(self._context, batch):
            raise OutOfMemory(f"llama.cpp could not go on with {self.path}.", "Choose a smaller --context.")

    def _logits(self, rows: int) -> np.ndarray:
        """(rows, vocabulary), float32: what was asked for last; gone with the next computation."""
        return np.ctypeslib.as_array(self._library.llama_get_logits(self._context), (rows, self.tokens))

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        size = self._library.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        return buffer.raw[: max(0, size)]


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """logits: tokens × vocabulary, float32; targets: tokens → nats, float64."""
    losses = np.empty(len(targets))
    for i in range(0, len(targets), _ROWS):
        rows = logits[i : i + _ROWS]
        top = rows.max(axis=1, keepdims=True)
        total = np.exp(rows - top).sum(axis=1, dtype=np.float64)
        chosen = np.take_along_axis(rows, targets[i : i + _ROWS, None], axis=1)
        losses[i : i + _ROWS] = np.log(total) + (top - chosen)[:, 0]
    return losses


@cache
def _library() -> ctypes.CDLL:
    """The native library inside xllamacpp, found without importing the package. Raises MissingLibrary."""
    spec = find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        raise MissingLibrary("xllamacpp is not installed; it runs GGUF files.", _REMEDY)
    folder = Path(spec.submodule_search_locations[0])
    for path in [*folder.glob("xllamacpp*.so"), *folder.glob("xllamacpp*.pyd")]:
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, *arguments) in _SIGNATURES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise MissingLibrary(f"xllamacpp does not load: {error}.", _REMEDY) from error
        library.llama_log_set(_silent, None)
        library.llama_backend_init()
        return library
    raise MissingLibrary(f"{folder} lacks xllamacpp's native library.", _REMEDY)
