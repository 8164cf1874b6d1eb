"""Projections that read the same input, as one matrix product with their LoRA weights in it.

For inputs x (T, K), frozen weights W (N, K) of all projections one under another, LoRA weights A (R, K) likewise and B (N, R) as a block
diagonal (a projection's rows meet only its own columns), scale s and dropout D:

    u = s · D(x) Aᵀ                        y = x Wᵀ + u Bᵀ = [x | u] [W | B]ᵀ

so x and u stand side by side in one buffer (T, K + R), and the LoRA path costs R more columns instead of reading and writing y again.
Backward, dy is given a buffer with R columns more, and

    v = s · dy B        dx = dy W + D(v A) = [dy | v] [W over A]  (without dropout)        dA = vᵀ D(x)        dB = dyᵀ u  (own blocks only)

so that W, B and A stand in one buffer (N + R, K + R), [[W, B], [A, ·]], whose first N rows serve the forward and first K columns the backward
product. R is rounded up to a multiple of 16, which kernels and products like best. At rank 16 the zeros of the block diagonal add 1.2 % to
the products of the attention inputs, less elsewhere. Dropout has one mask for all projections of a group (PEFT: one
each).

LoRA: Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from papertune.kernels import ops
from papertune.kernels.nf4 import NF4
from papertune.kernels.ops import Mask


class Joined(NamedTuple):
    """A group's input: ``both`` is (T, K + R), ``x`` its first K columns and ``u`` the rest."""

    both: Tensor
    x: Tensor
    u: Tensor


@dataclass(frozen=True, slots=True)
class Lora:
    """The float32 LoRA weights of a group: all A's one under another (≤ R, K), all B's likewise (n, rank), the gradients of both, and where each
    row of W has its row of B (``ops.join``). A and B are empty if no projection is trained."""

    a: Tensor
    b: Tensor
    a_gradient: Tensor
    b_gradient: Tensor
    places: Tensor
    scale: float


class Dropout(NamedTuple):
    """``keys``: (T) int32. A share of 0 drops nothing."""

    keys: Tensor
    share: float


class Group:
    """Projections with a common input; see the module's text. ``salt`` tells the masks of different groups apart."""

    def __init__(self, weights: tuple[NF4, ...], lora: Lora, salt: int, dtype: torch.dtype) -> None:
        self.inputs, self.outputs = weights[0].columns, sum(w.rows for w in weights)
        self.columns = -(-len(lora.a) // 16) * 16  # R, padding and all
        self._weights, self._lora, self._salt, self._trained = weights, lora, salt, len(lora.a) > 0
        self._kind: dict[str, Any] = {"dtype": dtype, "device": weights[0].codes.device}
        self._lasting: Tensor | None = None

    def input(self, tokens: int) -> Joined:
        """An empty buffer for the input of so many tokens: fill ``x``."""
        both = torch.empty(tokens, self.inputs + self.columns, **self._kind)
        return Joined(both, both[:, : self.inputs], both[:, self.inputs :])

    def output(self, tokens: int) -> Tensor:
        """An empty buffer (T, N + R) for the output of so many tokens, with the room that ``backward`` asks for."""
        return torch.empty(tokens, self.outputs + self.columns, **self._kind)

    def stay(self, on: bool) -> None:
        """Whether the weights stay dequantised from here on. A and B in them are as they are now: to be called again when they have changed."""
        if not on:
            self._lasting = None
        elif self._lasting is None:
            self._lasting = self.weights()
        else:
            self.lend(self._lasting)

    def lend(self, weights: Tensor) -> None:
        """These are what ``weights`` once gave, and are to be given until ``stay`` says otherwise; A and B in them are made those of now."""
        ops.renew(self._lora.a, self._lora.b, self._lora.places, weights)
        self._lasting = weights

    def weights(self) -> Tensor:
        """[[W, B], [A, ·]] (N + R, K + R): W dequantised, A and B as they are now, or were at the last ``stay``."""
        if self._lasting is not None:
            return self._lasting
        joined, lora = torch.empty(self.outputs + self.columns, self.inputs + self.columns, **self._kind), self._lora
        first = 0
        for part in self._weights:
            last = first + part.rows
            ops.join(part, lora.a, lora.b, lora.places[first:last], joined[first : last if last < self.outputs else None])
            first = last
        return joined

    def mask(self, dropout: Dropout) -> Mask | None:
        """Of what the group's A's are given."""
        return Mask(dropout.keys, self._salt, dropout.share) if dropout.share and self._trained else None

    def lower(self, joined: Joined, fed: Tensor, weights: Tensor) -> None:
        """Fills ``u``; ``fed`` is D(x)."""
        if self._trained:
            joined.u.addmm_(fed, weights[self.outputs :, : self.inputs].T, beta=0, alpha=self._lora.scale)

    def forward(self, joined: Joined, weights: Tensor, out: Tensor) -> None:
        """Fills ``out`` (T, N) with y. ``lower`` has filled ``u``."""
        torch.mm(joined.both, weights[: self.outputs].T, out=out)

    def add(self, joined: Joined, weights: Tensor, out: Tensor) -> Tensor:
        """out (T, N) + y, over ``out``. ``lower`` has filled ``u``."""
        return ops.add_product_(out, joined.both, weights[: self.outputs].T)

    def backward(self, dy: Tensor, weights: Tensor, mask: Mask | None) -> Tensor:
        """dx (T, K). The first N columns of ``dy`` (T, ≥ N + R) are the gradient in y; the next R become v, for ``gather``."""
        n, every = self.outputs, self.outputs + self.columns
        if self._trained:
            dy[:, n:every].addmm_(dy[:, :n], weights[:n, self.inputs :], beta=0, alpha=self._lora.scale)
        if mask is None:
            return torch.mm(dy[:, :every], weights[:, : self.inputs])
        dx = torch.mm(dy[:, :n], weights[:n, : self.inputs])
        ops.lora_backward_(dy[:, n:every], weights[n:, : self.inputs], dx, mask)
        return dx

    def gather(self, dy: Tensor, fed: Tensor, u: Tensor) -> None:
        """Adds to the gradients of A and B. ``dy`` as ``backward`` left it, ``fed`` as in ``lower``."""
        if self._trained:
            ops.gather_(dy, fed, u, self._lora.a_gradient, self._lora.b_gradient, self._lora.places)
