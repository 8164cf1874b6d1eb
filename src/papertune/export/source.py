"""Where an export takes its tensors from: a base model with an adapter merged in on the fly, or a folder merged before."""

from __future__ import annotations

import math
import threading
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from papertune.adapter import Adapter
from papertune.base import Base
from papertune.errors import BadAdapter, BadModel, UnsupportedModel
from papertune.export.merge import merged_rows, widen
from papertune.export.nf4 import through_nf4
from papertune.export.weights import DTYPES, Weights
from papertune.family import head_size, key_value_heads

Order = NDArray[np.int64]
_NOTHING: NDArray[Any] = np.empty(0)


class TensorSource:
    """The tuned model's tensors by their Hugging Face names; a context manager; safe to read from many threads.

    With ``adapter`` None the base is taken as it is (a merged folder). With ``nf4`` the adapted matrices are first rounded as in training
    (``nf4``). Raises BadModel when a tensor is missing or misshapen,
    BadAdapter when the adapter does not fit the model, UnsupportedModel for tensors that GGUF's table does not name.
    """

    def __init__(self, base: Base, adapter: Adapter | None, *, nf4: bool = False) -> None:
        self.base = base
        self.nf4, self._rounded, self._lock = nf4, ("", _NOTHING), threading.Lock()
        self._weights = Weights(base.weight_files)
        try:
            self._pairs = {f"{module}.weight": pair for module, pair in adapter.pairs().items()} if adapter else {}
            self._scale = adapter.scale if adapter else 0.0
            self.adapter_bytes = sum(a.nbytes + b.nbytes for a, b in self._pairs.values())
            self.names = self._check()
            if adapter:
                self._check_adapter(adapter)
        except BaseException:
            self.close()
            raise

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.tensors[name].shape

    def dtype(self, name: str) -> str:
        """The safetensors name of the stored type."""
        return self._weights.tensors[name].dtype

    def vector(self, name: str) -> NDArray[np.float32]:
        return self._checked(name, widen(self._weights.rows(name, 0, self.shape(name)[0])))

    def rows(self, name: str, first: int, last: int) -> NDArray[np.float32]:
        """Rows of a matrix of the tuned model as float32, with the precision of the base's type."""
        return self._merge(name, self._stored(name, first, last), slice(first, last))

    def heads_paired(self, name: str, heads: int, first: int, last: int) -> NDArray[np.float32]:
        """As ``rows``, of the matrix whose rows are reordered head by head from (first half, second half) to neighbouring pairs.

        ``first`` and ``last`` must be multiples of a head's width.
        """
        width = self.shape(name)[0] // heads
        order = np.arange(first, last).reshape(-1, 2, width // 2).swapaxes(1, 2).reshape(-1)
        return self._merge(name, self._stored(name, first, last)[order - first], order)

    def close(self) -> None:
        self._weights.close()

    def __enter__(self) -> TensorSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _stored(self, name: str, first: int, last: int) -> NDArray[Any]:
        if not self.nf4 or name not in self._pairs or self.dtype(name) != "BF16":
            return self._weights.rows(name, first, last)
        with self._lock:  # the scales of NF4 are rounded over the whole matrix; its slabs come one after the other
            if self._rounded[0] != name:
                self._rounded = (name, through_nf4(self._weights.rows(name, 0, self.shape(name)[0])))
            return self._rounded[1][first:last]

    def _merge(self, name: str, raw: NDArray[Any], chosen: slice | Order) -> NDArray[np.float32]:
        pair = self._pairs.get(name)
        values = widen(raw) if pair is None else merged_rows(raw, pair[0], np.ascontiguousarray(pair[1][chosen]), self._scale)
        return self._checked(name, values)

    def _checked(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """``values``, all finite: llama.cpp refuses a tensor with an infinity or NaN, and a quantiser turns it into nonsense."""
        if not np.isfinite(values.sum()) and not np.isfinite(values).all():  # the sum alone is quicker, but may overflow
            where = "with the adapter merged in, " if name in self._pairs else ""
            raise BadModel(f"{self.base.folder}: {where}{name} holds values that are not finite.", "Check the model and the adapter.")
        return values

    def _check(self) -> dict[str, str]:
        """GGUF name of every tensor that is there, in the family's order, after checking names, types and shapes."""
        config, here = self.base.config, self._weights.tensors
        hidden, ffn, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
        queries = head_size(config) * config["num_attention_heads"]
        keys = head_size(config) * key_value_heads(config)
        shapes = {
            "embed_tokens": (vocabulary, hidden),
            "lm_head": (vocabulary, hidden),
            "q_proj": (queries, hidden),
            "k_proj": (keys, hidden),
            "v_proj": (keys, hidden),
            "o_proj": (hidden, queries),
            "gate_proj": (ffn, hidden),
            "up_proj": (ffn, hidden),
            "down_proj": (hidden, ffn),
        }
        names = {}
        for ours, theirs in self.base.family.tensors(config["num_hidden_layers"]):
            if ours == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            if ours not in here:
                raise BadModel(f"{self.base.folder} lacks the tensor {ours}.", "Download the model again.")
            expected = shapes.get(ours.split(".")[-2], (hidden,))
            if here[ours].shape != expected or here[ours].dtype not in DTYPES:
                found = f"{here[ours].dtype} {here[ours].shape}"
                raise BadModel(f"{self.base.folder}: {ours} is {found}, not a float tensor of shape {expected}.", "Download the model again.")
            names[ours] = theirs
        strange = sorted(n for n in here if n not in names and n != "lm_head.weight" and not n.endswith("rotary_emb.inv_freq"))
        if strange:
            raise UnsupportedModel(f"{self.base.folder} holds {strange[0]}, which papertune does not know.", "Choose a plain Mistral or Llama model.")
        return names

    def _check_adapter(self, adapter: Adapter) -> None:
        for name, (a, b) in self._pairs.items():
            if name not in self.names or len(self.shape(name)) != 2 or (b.shape[0], a.shape[1]) != self.shape(name):
                what = f"{adapter.folder} was not trained on {self.base.name}: its {name.removesuffix('.weight')} does not fit."
                raise BadAdapter(what, "Use the base model that the adapter names, or train again.")
        if not any(math.fabs(float(np.abs(b).max())) > 0 for _, b in self._pairs.values()):
            raise BadAdapter(f"{adapter.folder} changes nothing: all its B matrices are zero.", "Train it first.")
