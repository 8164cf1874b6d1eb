"""The tuned model run on text one matrix at a time, straight from a tensor source, in float32.

Only the matrices at work are in memory, three at most, so a 7B model is read in under a gigabyte. This is the reference that a GGUF is compared
with, and what an importance matrix is collected from. The arithmetic is that of transformers' Mistral and Llama:

    x += O · attention(rope(Q·n), rope(K·n), V·n),  n = norm(x);    x += D · (silu(G·m) ⊙ U·m),  m = norm(x);    logits = H · norm(x)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from papertune.device import cores
from papertune.export.source import TensorSource
from papertune.family import head_size, key_value_heads, rope_theta

Seen = Callable[[str, torch.Tensor], None]
_ROWS = 4096  # of the embedding and the head at once
_TOKENS = 1024  # that go through the wide middle of a layer at once: 59 MB of float32 for a 7B model


def run_model(
    source: TensorSource, texts: Sequence[Sequence[int]], *, seen: Seen | None = None, logits: bool = True, device: str = "cpu"
) -> list[NDArray[np.float32]]:
    """Logits (tokens, vocabulary) after each token of each text; texts must be shorter than the model's window.

    ``seen(name, x)`` is called for every matrix with its Hugging Face name and its input (tokens, columns), for all texts together or piece by
    piece. Without ``logits`` the head is not run and the result is empty.
    """
    config = source.base.config
    layers, eps = config["num_hidden_layers"], float(config.get("rms_norm_eps", 1e-6))
    shape = _Heads(config["num_attention_heads"], key_value_heads(config), head_size(config))
    lengths = [len(text) for text in texts]
    cos, sin = _angles(max(lengths), config, device)

    def matrix(name: str) -> torch.Tensor:
        return torch.from_numpy(_matrix(source, name, pool)).to(device).T

    def times(name: str, x: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        if seen is not None:
            seen(name, x)
        return x @ (matrix(name) if weights is None else weights)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = torch.from_numpy(source.vector(name)).to(device)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight

    with torch.inference_mode(), ThreadPoolExecutor(cores()) as pool:
        flat = np.concatenate([np.asarray(text, np.int64) for text in texts])
        x = torch.from_numpy(_embed(source, flat)).to(device)
        for layer in range(layers):
            at = f"model.layers.{layer}"
            n = norm(f"{at}.input_layernorm.weight", x)
            q, k, v = (times(f"{at}.self_attn.{p}_proj.weight", n) for p in "qkv")
            each = zip(*(torch.split(t, lengths) for t in (q, k, v)), strict=True)
            mixed = [_attend(a, b, c, cos, sin, shape) for a, b, c in each]
            x = x + times(f"{at}.self_attn.o_proj.weight", torch.cat(mixed))
            gate, up, down = (f"{at}.mlp.{p}_proj.weight" for p in ("gate", "up", "down"))
            wide = {name: matrix(name) for name in (gate, up, down)}
            for piece in torch.split(x, _TOKENS):
                m = norm(f"{at}.post_attention_layernorm.weight", piece)
                gated = functional.silu(times(gate, m, wide[gate])) * times(up, m, wide[up])
                piece += times(down, gated, wide[down])
        if not logits:
            return []
        x = norm("model.norm.weight", x)
        head = "lm_head.weight" if "lm_head.weight" in source.names else "model.embed_tokens.weight"
        rows = source.shape(head)[0]
        parts = [x @ torch.from_numpy(source.rows(head, i, min(i + _ROWS, rows))).to(device).T for i in range(0, rows, _ROWS)]
        return [part.numpy() for part in torch.split(torch.cat(parts, dim=1).cpu(), lengths)]


class _Heads:
    def __init__(self, queries: int, keys: int, width: int) -> None:
        self.queries, self.keys, self.width = queries, keys, width


def _matrix(source: TensorSource, name: str, pool: ThreadPoolExecutor) -> NDArray[np.float32]:
    """The whole matrix, its rows merged by all cores."""
    rows, columns = source.shape(name)
    out = np.empty((rows, columns), np.float32)

    def fill(first: int) -> None:
        out[first : first + _ROWS // 4] = source.rows(name, first, min(first + _ROWS // 4, rows))

    list(pool.map(fill, range(0, rows, _ROWS // 4)))
    return out


def _embed(source: TensorSource, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    name = "model.embed_tokens.weight"
    out = np.empty((ids.size, source.shape(name)[1]), np.float32)
    for first in range(0, source.shape(name)[0], _ROWS):
        here = (ids >= first) & (ids < first + _ROWS)
        if here.any():
            out[here] = source.rows(name, first, min(first + _ROWS, source.shape(name)[0]))[ids[here] - first]
    return out


def _angles(length: int, config: dict[str, Any], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of position × frequency, (length, width): the frequencies twice, for the two halves of a head."""
    width = head_size(config)
    frequencies = 1.0 / rope_theta(config) ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies).repeat(1, 2).to(device)
    return angles.cos(), angles.sin()


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: _Heads) -> torch.Tensor:
    """Causal attention within one text; (tokens, heads × width) in and out."""
    length = q.shape[0]

    def split(x: torch.Tensor, count: int) -> torch.Tensor:
        return x.view(length, count, heads.width).transpose(0, 1)

    def turn(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos[:length] + torch.cat((-second, first), dim=-1) * sin[:length]

    queries, keys, values = turn(split(q, heads.queries)), turn(split(k, heads.keys)), split(v, heads.keys)
    shared = heads.queries // heads.keys
    keys, values = keys.repeat_interleave(shared, dim=0), values.repeat_interleave(shared, dim=0)
    out = functional.scaled_dot_product_attention(queries[None], keys[None], values[None], is_causal=True)[0]
    return out.transpose(0, 1).reshape(length, -1)
