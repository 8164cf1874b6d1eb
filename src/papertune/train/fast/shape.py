"""The numbers that make up a Mistral or Llama model, and which of these models the fast engine runs."""

from __future__ import annotations

from dataclasses import dataclass

from papertune.base import Base
from papertune.family import head_size, key_value_heads, rope_theta


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths in numbers a token; ``window`` is how many tokens a token sees, itself included, 0 for all before it."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    eps: float
    theta: float
    window: int
    tied: bool

    @property
    def queries(self) -> int:
        return self.heads * self.head

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head


def shape_of(base: Base) -> Shape:
    config = base.config
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        inner=config["intermediate_size"],
        heads=config["num_attention_heads"],
        kv_heads=key_value_heads(config),
        head=head_size(config),
        vocabulary=config["vocab_size"],
        eps=float(config.get("rms_norm_eps", 1e-6)),
        theta=rope_theta(config),
        window=int(config.get("sliding_window") or 0) if base.family.name == "mistral" else 0,
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def unsupported(base: Base) -> str:
    """Why the fast engine does not run this model, in words; empty when it does."""
    shape = shape_of(base)
    if shape.head % 8 or shape.head > 256:
        return f"its attention heads are {shape.head} wide"
    if any(width % 64 for width in (shape.hidden, shape.queries, shape.inner)):
        return "its widths are no multiples of 64"
    return ""
