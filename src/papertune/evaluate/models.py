"""The models that can be measured: a base model in torch, with and without its adapter, and GGUF files in llama.cpp."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from papertune.adapter import Adapter
from papertune.base import Base
from papertune.errors import BadAdapter, BadModel, MissingLibrary
from papertune.tokenizer import open_tokenizer

_HALF = 2  # bytes a weight
_ROWS = 64  # tokens whose logits exist at a time


class TorchModel:
    """A base model, and an adapter that can be switched on (``tuned``). Nothing is sampled or dropped: the same call gives the same digits.

    Weights are float32 on a CPU, bfloat16 on a GPU that holds them, else NF4 as in training; ``precision`` says which.
    Raises MissingLibrary, BadModel or BadAdapter.
    """

    def __init__(self, base: Base, adapter: Adapter | None, *, window: int, device: str, threads: int) -> None:
        try:
            import torch
            from transformers import AutoModelForCausalLM
            from transformers.utils import logging
        except ImportError as error:
            raise MissingLibrary(f"{error.name or error} is needed to run the base model and does not import.", "Run: papertune doctor") from error
        logging.disable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]  # a step prints nothing
        torch.set_num_threads(threads)
        self.name, self.window, self._torch = base.name, window, torch
        self._tokenizer = open_tokenizer(base.folder)
        self.bos = self._tokenizer.bos
        self._device, self.precision, options = _placement(base, device, torch)
        try:
            self._model: Any = AutoModelForCausalLM.from_pretrained(base.folder, local_files_only=True, attn_implementation="sdpa", **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise BadModel(f"{base.folder} does not load: {_first_line(error)}.", "Download the model again.") from error
        self._causal = self._model
        self._tuned = adapter is not None
        if adapter is not None:
            self._model = _with_adapter(self._model, adapter)
            self._causal = self._model.get_base_model()
        self._model.eval()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def losses(self, ids: Sequence[int], start: int) -> np.ndarray:
        """-ln p of ``ids[start:]``, float64. Softmax in float32, over a few tokens at a time: all logits of a long window would not fit."""
        torch = self._torch
        with torch.no_grad():
            tokens = torch.tensor([list(ids)], device=self._device)
            hidden = self._causal.model(input_ids=tokens, use_cache=False).last_hidden_state[0, start - 1 : -1]
            parts = []
            for rows, targets in zip(hidden.split(_ROWS), tokens[0, start:].split(_ROWS), strict=True):
                logits = self._causal.lm_head(rows).float()
                parts.append(torch.logsumexp(logits, dim=1) - logits.gather(1, targets[:, None])[:, 0])
            return np.asarray(torch.cat(parts).double().cpu().numpy())

    @contextmanager
    def untuned(self) -> Iterator[None]:
        """While active, the adapter is off."""
        if not self._tuned:
            yield
            return
        with self._model.disable_adapter():
            yield


def _placement(base: Base, device: str, torch: Any) -> tuple[str, str, dict[str, Any]]:
    """Device, precision in words, and what ``from_pretrained`` needs for them."""
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise MissingLibrary("--device cuda: torch sees no CUDA GPU.", "Use --device cpu, or run papertune doctor.")
    if device == "cpu" or not cuda:
        return "cpu", "float32", {"dtype": torch.float32}
    weights = sum(path.stat().st_size for path in base.weight_files) // _stored_bytes(base)
    if weights * _HALF < 0.8 * torch.cuda.mem_get_info()[0]:
        return "cuda", "bfloat16", {"dtype": torch.bfloat16, "device_map": {"": 0}}
    from transformers import BitsAndBytesConfig

    quantized: Any = BitsAndBytesConfig(  # type: ignore[no-untyped-call,unused-ignore]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    return "cuda", "NF4", {"dtype": torch.bfloat16, "device_map": {"": 0}, "quantization_config": quantized}


def _stored_bytes(base: Base) -> int:
    """Bytes of a weight in the model's files."""
    return 4 if str(base.config.get("torch_dtype") or base.config.get("dtype")) == "float32" else _HALF


def _with_adapter(model: Any, adapter: Adapter) -> Any:
    adapter.pairs()  # says what is wrong with the file, where PEFT would not
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingLibrary(f"{error.name or error} is needed to run an adapter and does not import.", "Run: papertune doctor") from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")  # PEFT asks by transformers' old name
            return PeftModel.from_pretrained(model, str(adapter.folder))
    except (RuntimeError, ValueError, KeyError) as error:
        raise BadAdapter(f"{adapter.folder} does not fit the base model: {_first_line(error)}.", "Name its own base with --model.") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class GgufModel:
    """A GGUF file as ``perplexity.Model``."""

    def __init__(self, path: Path, *, window: int, threads: int) -> None:
        from papertune.llama import Gguf

        self.gguf = Gguf(path, context=window, threads=threads)
        self.name, self.window, self.bos = path.name, self.gguf.context, self.gguf.bos
        self.encode, self.decode, self.losses = self.gguf.encode, self.gguf.decode, self.gguf.losses
