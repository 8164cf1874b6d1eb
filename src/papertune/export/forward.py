"""The tuned model run on text a few rows of a matrix at a time, straight from a tensor source, in float32.

No matrix is ever whole in memory, so what it takes is the activations. This is the reference that a GGUF is compared with, and what an importance
matrix is collected from. The arithmetic is that of transformers' Mistral and Llama:

    x += O · attention(rope(Q·n), rope(K·n), V·n),  n = norm(x);    x += D · (silu(G·m) ⊙ U·m),  m = norm(x);    logits = H · norm(x)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from papertune.device import cores
from papertune.export.room import BLOCK, TOKENS
from papertune.export.source import TensorSource
from papertune.family import head_size, key_value_heads, rope_theta

Seen = Callable[[str, torch.Tensor], None]


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

    def times(name: str, x: torch.Tensor) -> torch.Tensor:
        if seen is not None:
            seen(name, x)
        out = torch.empty(x.shape[0], source.shape(name)[0], device=device)
        for first, last in _blocks(source, name):
            out[:, first:last] = x @ torch.from_numpy(_rows(source, name, first, last, pool)).to(device).T
        return out

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = torch.from_numpy(source.vector(name)).to(device)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight

    def attention(at: str, x: torch.Tensor) -> torch.Tensor:
        n = norm(f"{at}.input_layernorm.weight", x)
        q, k, v = (torch.split(times(f"{at}.self_attn.{p}_proj.weight", n), lengths) for p in "qkv")
        del n
        mixed = torch.cat([_attend(a, b, c, cos, sin, shape) for a, b, c in zip(q, k, v, strict=True)])
        del q, k, v
        return times(f"{at}.self_attn.o_proj.weight", mixed)

    def mlp(at: str, x: torch.Tensor) -> torch.Tensor:
        m = norm(f"{at}.post_attention_layernorm.weight", x)
        gate, up, down = (f"{at}.mlp.{p}_proj.weight" for p in ("gate", "up", "down"))
        return times(down, functional.silu(times(gate, m), inplace=True).mul_(times(up, m)))

    with torch.inference_mode(), ThreadPoolExecutor(cores()) as pool:
        flat = np.concatenate([np.asarray(text, np.int64) for text in texts])
        x = torch.from_numpy(_embed(source, flat)).to(device)
        for layer in range(layers):
            at = f"model.layers.{layer}"
            x += attention(at, x)
            for piece in torch.split(x, TOKENS):
                piece += mlp(at, piece)
        if not logits:
            return []
        x = norm("model.norm.weight", x)
        head = "lm_head.weight" if "lm_head.weight" in source.names else "model.embed_tokens.weight"
        return [part.numpy() for part in torch.split(times(head, x).cpu(), lengths)]


class _Heads:
    def __init__(self, queries: int, keys: int, width: int) -> None:
        self.queries, self.keys, self.width = queries, keys, width


def _blocks(source: TensorSource, name: str) -> Iterator[tuple[int, int]]:
    """The rows of a matrix a block at a time: first, and last (exclusive)."""
    rows, columns = source.shape(name)
    step = max(1, BLOCK // columns)
    return ((first, min(first + step, rows)) for first in range(0, rows, step))


def _rows(source: TensorSource, name: str, first: int, last: int, pool: ThreadPoolExecutor) -> NDArray[np.float32]:
    """Rows of a matrix, merged by all cores."""
    out = np.empty((last - first, source.shape(name)[1]), np.float32)
    share = -(-len(out) // cores())

    def fill(start: int) -> None:
        end = min(start + share, len(out))
        out[start:end] = source.rows(name, first + start, first + end)

    list(pool.map(fill, range(0, len(out), share)))
    return out


def _embed(source: TensorSource, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    name = "model.embed_tokens.weight"
    out = np.empty((ids.size, source.shape(name)[1]), np.float32)
    for first, last in _blocks(source, name):
        here = (ids >= first) & (ids < last)
        if here.any():
            out[here] = source.rows(name, first, last)[ids[here] - first]
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
