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
from typing import NamedTuple

import torch
from torch import Tensor

from papertune.kernels import ops
from papertune.kernels.nf4 import NF4


class Joined(NamedTuple):
    """A group's input: ``both`` is (T, K + R), ``x`` its first K columns and ``u`` the rest."""

    both: Tensor
    x: Tensor
    u: Tensor


@dataclass(frozen=True, slots=True)
class Up:
    """The B of one projection and its gradient, (rows, rank) float32, and which rows of W and columns of u are its own."""

    rows: slice
    columns: slice
    b: Tensor
    gradient: Tensor


@dataclass(frozen=True, slots=True)
class Lora:
    """The float32 LoRA weights of a group: all A's one under another (R, K), their gradient, and each B. ``ups`` is empty if none is trained."""

    a: Tensor
    gradient: Tensor
    ups: tuple[Up, ...]
    scale: float


class Dropout(NamedTuple):
    """``keys``: (T) int32. A share of 0 drops nothing."""

    keys: Tensor
    share: float


class Group:
    """Projections with a common input; see the module's text. ``salt`` tells the masks of different groups apart."""

    def __init__(self, weights: tuple[NF4, ...], lora: Lora, salt: int, dtype: torch.dtype) -> None:
        self.inputs, self.outputs = weights[0].columns, sum(w.rows for w in weights)
        self._weights, self._lora, self._salt = weights, lora, salt
        width, device = -(-len(lora.a) // 16) * 16, weights[0].codes.device
        self._a = torch.zeros(width, self.inputs, dtype=dtype, device=device)
        self._b = torch.zeros(self.outputs, width, dtype=dtype, device=device)

    def shadows(self) -> list[tuple[Tensor, Tensor]]:
        """(copy in the type of the products, float32 original) of every LoRA matrix."""
        return [(self._a[: len(self._lora.a)], self._lora.a), *((self._b[up.rows, up.columns], up.b) for up in self._lora.ups)]

    @property
    def columns(self) -> int:
        """R, padding and all."""
        return len(self._a)

    def input(self, tokens: int) -> Joined:
        """An empty buffer for the input of so many tokens: fill ``x``."""
        both = self._a.new_empty(tokens, self.inputs + len(self._a))
        return Joined(both, both[:, : self.inputs], both[:, self.inputs :])

    def output(self, tokens: int) -> Tensor:
        """An empty buffer (T, N + R) for the output of so many tokens, with the room that ``backward`` asks for."""
        return self._a.new_empty(tokens, self.outputs + len(self._a))

    def weights(self) -> Tensor:
        """[[W, B], [A, ·]] (N + R, K + R), dequantised."""
        joined = self._a.new_empty(self.outputs + len(self._a), self.inputs + len(self._a))
        first = 0
        for part in self._weights[:-1]:
            ops.join(part, self._b[first : first + part.rows], self._a[:0], joined[first : first + part.rows])
            first += part.rows
        ops.join(self._weights[-1], self._b[first:], self._a, joined[first:])
        return joined

    def lower(self, joined: Joined, dropout: Dropout) -> None:
        """Fills ``u`` from ``x``."""
        if self._lora.ups:
            joined.u.addmm_(self._dropped(joined.x, dropout), self._a.T, beta=0, alpha=self._lora.scale)

    def forward(self, joined: Joined, weights: Tensor, dropout: Dropout, out: Tensor) -> None:
        """Fills ``out`` (T, N) with y, and ``u``."""
        self.lower(joined, dropout)
        torch.mm(joined.both, weights[: self.outputs].T, out=out)

    def add(self, joined: Joined, weights: Tensor, out: Tensor) -> Tensor:
        """out (T, N) + y, over ``out``. ``lower`` has filled ``u``."""
        return out.addmm_(joined.both, weights[: self.outputs].T)

    def backward(self, dy: Tensor, weights: Tensor, dropout: Dropout) -> Tensor:
        """dx (T, K). The first N columns of ``dy`` (T, ≥ N + R) are the gradient in y; the next R become v, for ``gather``."""
        n, every = self.outputs, self.outputs + len(self._a)
        if self._lora.ups:
            dy[:, n:every].addmm_(dy[:, :n], self._b, beta=0, alpha=self._lora.scale)
        if not dropout.share:
            return torch.mm(dy[:, :every], weights[:, : self.inputs])
        dx = torch.mm(dy[:, :n], weights[:n, : self.inputs])
        if self._lora.ups:
            ops.dropout_add_(dx, dy[:, n:every] @ self._a, dropout.keys, self._salt, dropout.share, 1.0)
        return dx

    def gather(self, dy: Tensor, x: Tensor, u: Tensor, dropout: Dropout) -> None:
        """Adds to the gradients of A and B. ``dy`` as ``backward`` left it."""
        lora = self._lora
        for up in lora.ups:
            ops.accumulate_(up.gradient, dy[:, up.rows].T, u[:, up.columns])
        if lora.ups:
            v = dy[:, self.outputs : self.outputs + len(lora.a)]
            ops.accumulate_(lora.gradient, v.T, self._dropped(x, dropout))

    def _dropped(self, x: Tensor, dropout: Dropout) -> Tensor:
        return ops.dropout(x, dropout.keys, self._salt, dropout.share) if dropout.share else x
