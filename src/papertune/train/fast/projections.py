"""Projections that read the same input, as one matrix product with their LoRA weights in it.

For inputs x (T, K), frozen weights W (N, K) of all projections one under another, LoRA weights A (R, K) likewise and B (N, R) as a block
diagonal (a projection's rows meet only its own columns), scale s and dropout D:

    u = s · D(x) Aᵀ                        y = x Wᵀ + u Bᵀ = [x | u] [W | B]ᵀ

so x and u stand side by side in one buffer (T, K + R), W and B in another (N, K + R), and the LoRA path costs R more columns instead of
reading and writing y again. Backward, one product gives both parts of

    [dy W | v] = dy [W | B]                dx = dy W + D(s · v A)         dA = s · vᵀ D(x)         dB = dyᵀ u  (own blocks only)

K + R is rounded up to a multiple of 8, which keeps rows 16-byte aligned. At rank 16 the padding zeros and the zeros of the block diagonal
add 1.2 % to the products of the attention inputs, less elsewhere. Dropout has one mask for all projections of a group (PEFT: one each).

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
        width, device = -(-len(lora.a) // 8) * 8, weights[0].codes.device
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

    def weights(self) -> Tensor:
        """[W | B], dequantised."""
        both = self._a.new_empty(self.outputs, self.inputs + len(self._a))
        first = 0
        for part in self._weights:
            ops.dequantize(part, both[first : first + part.rows, : self.inputs])
            first += part.rows
        both[:, self.inputs :] = self._b
        return both

    def lower(self, joined: Joined, dropout: Dropout) -> None:
        """Fills ``u`` from ``x``."""
        if self._lora.ups:
            joined.u.addmm_(self._dropped(joined.x, dropout), self._a.T, beta=0, alpha=self._lora.scale)

    def forward(self, joined: Joined, weights: Tensor, dropout: Dropout, add: Tensor | None = None) -> Tensor:
        """y, plus ``add`` (T, N) if given. Fills ``u``."""
        self.lower(joined, dropout)
        # In place, as where the sum may overwrite ``add``: the same call gives the same bits, so that a plan does not change the numbers.
        return torch.mm(joined.both, weights.T) if add is None else add.clone().addmm_(joined.both, weights.T)

    def backward(self, dy: Tensor, weights: Tensor, dropout: Dropout) -> tuple[Tensor, Tensor]:
        """dx (T, K; its rows stand apart), and v (T, R) for ``gather``."""
        both = torch.mm(dy, weights)
        dx, v = both[:, : self.inputs], both[:, self.inputs :]
        if self._lora.ups and dropout.share:
            ops.dropout_add_(dx, v @ self._a, dropout.keys, self._salt, dropout.share, self._lora.scale)
        elif self._lora.ups:
            dx.addmm_(v, self._a, alpha=self._lora.scale)
        return dx, v

    def gather(self, dy: Tensor, v: Tensor, x: Tensor, u: Tensor, dropout: Dropout) -> None:
        """Adds to the gradients of A and B."""
        lora = self._lora
        for up in lora.ups:
            ops.accumulate_(up.gradient, dy[:, up.rows].T, u[:, up.columns])
        if lora.ups:
            ops.accumulate_(lora.gradient, v[:, : len(lora.a)].T, self._dropped(x, dropout), lora.scale)

    def _dropped(self, x: Tensor, dropout: Dropout) -> Tensor:
        return ops.dropout(x, dropout.keys, self._salt, dropout.share) if dropout.share else x
