"""What becomes of each layer's activations between the forward and the backward pass, and other trades of time for memory.

A layer of Mistral 7B makes, a token: 8 KB of input, 12 KB of queries, keys and values, 8 KB of attention output, 8 KB of hidden state and
57 KB of gate and up projections in 16 bits. Its weights take 436 MB when dequantised.

recompute  hold the input (8 KB a token); run the layer again before its backward pass: a third more multiplications
attention  hold all but gate and up (36 KB a token); run the MLP again: a fifth more, and attention only once, which long documents pay for
offload    hold all 93 KB a token in host memory: needs a link that moves them while the next layer computes
keep       hold all 93 KB a token on the card: fastest
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Fate(Enum):
    """Of a layer's activations."""

    RECOMPUTE = auto()
    ATTENTION = auto()
    OFFLOAD = auto()
    KEEP = auto()


@dataclass(frozen=True, slots=True)
class Plan:
    """The last ``keep`` layers are kept (their backward passes come first), the ``offload`` before them offloaded, of the ``attention`` before
    those all but the MLP is kept, and the rest is recomputed.

    Further savings, for long sequences: ``park_inputs`` holds the recomputed layers' inputs in host memory; ``mlp_rows`` is how many tokens
    pass through a recomputed layer's MLP at a time (0: all); ``head_groups`` cuts the backward pass of attention; ``loss_rows`` is how many
    positions have logits at a time; ``host_embedding`` leaves the embedding table in host memory. With ``hold_weights`` a recomputed layer's
    dequantised weights are held until its backward pass has used them, else dequantised twice. And what to do with memory that is left: the
    weights of the first ``dequantised`` layers stay so, from one micro-batch to the next; those of every ``stream_every``-th other (a power of 2;
    0: of none) come from host memory, dequantised there once and for all, while the layers before compute.
    """

    keep: int = 0
    offload: int = 0
    attention: int = 0
    park_inputs: bool = False
    mlp_rows: int = 0
    head_groups: int = 1
    loss_rows: int = 1024
    host_embedding: bool = False
    hold_weights: bool = True
    dequantised: int = 0
    stream_every: int = 0

    def rows(self, tokens: int) -> int:
        """``mlp_rows`` for so many tokens: 0 where they are no more."""
        return self.mlp_rows if self.mlp_rows < tokens else 0

    def streamed(self, layers: int) -> range:
        """The layers whose weights come from host memory, from the last down. The first is none of them: nothing computes before it."""
        return range(layers - 1, max(0, self.dequantised - 1), -self.stream_every) if self.stream_every else range(0)

    def ready(self, layers: int) -> int:
        """How many layers' weights need not be dequantised: they stay so, or come so."""
        return min(self.dequantised, layers) + len(self.streamed(layers))

    def counts(self, layers: int) -> tuple[int, int, int, int]:
        """How many of so many layers are kept, offloaded, kept but for the MLP, and recomputed."""
        keep = min(self.keep, layers)
        offload = min(self.offload, layers - keep)
        attention = min(self.attention, layers - keep - offload)
        return keep, offload, attention, layers - keep - offload - attention

    def fate(self, layer: int, layers: int) -> Fate:
        if layer >= layers - self.keep:
            return Fate.KEEP
        if layer >= layers - self.keep - self.offload:
            return Fate.OFFLOAD
        return Fate.ATTENTION if layer >= layers - self.keep - self.offload - self.attention else Fate.RECOMPUTE


def words(plan: Plan, layers: int) -> str:
    """"keeps 20 of 32 layers, recomputes 12"."""
    verbs = ("keeps", "offloads", "recomputes the MLP of", "recomputes")
    parts = [f"{verb} {count}" for verb, count in zip(verbs, plan.counts(layers), strict=True) if count]
    parts[0] += f" of {layers} layers"
    saving = [name for name, on in (("their inputs on the host", plan.park_inputs), ("the MLP in pieces", plan.mlp_rows > 0)) if on]
    if saving:
        parts.append(f"with {' and '.join(saving)}")
    if plan.dequantised:
        parts.append(f"has {min(plan.dequantised, layers)} dequantised throughout")
    if plan.stream_every:
        parts.append(f"has {len(plan.streamed(layers))} dequantised in host memory")
    return ", ".join(parts)
