"""Weights in NF4 with double-quantised scales, the format of bitsandbytes and QLoRA.

A weight matrix is cut, row by row, into blocks of 64 numbers. Per block there is one scale s, and each number is a 4-bit index into a
table of 16 levels within [-1, 1]; two indices share a byte, the earlier in its upper half. The scales are themselves in 8 bits: of 256
successive ones, each is an index into a table of 256 values, times one float32 step, plus one float32 offset a matrix:

    s[b] = book[scales[b]] * steps[b // 256] + offset        w[i] = levels[codes[i]] * s[i // 64]

Bytes a weight: 1/2 + 1/64 + 1/4096 = 0.516. Multiplication and addition are rounded apart, in float32, and the product once more to the
type wanted; that is what bitsandbytes does, and we give the same bits.

Source: Dettmers et al. 2023, "QLoRA" (arXiv 2305.14314), section 3; bitsandbytes ``functional.dequantize_4bit``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from papertune.kernels import blockwise

BLOCK = 64  # weights under one scale
NEST = blockwise.BLOCK  # scales under one step
# The normal distribution cut in parts of equal probability, with 0 among them: appendix E of the paper.
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495),
    *(0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
_ALIGNED = 256  # bytes
_AT_ONCE = 1 << 16  # blocks quantised at a time on a CPU: each weight takes 12 bytes meanwhile


@dataclass(frozen=True, slots=True)
class NF4:
    """A matrix of ``rows`` × ``columns`` weights.

    codes: (rows · columns / 2) uint8; scales: (blocks) uint8; steps, offsets: (⌈blocks / 256⌉) float32; book: (256) and levels: (16) float32.
    ``offsets`` holds one value a step, so that matrices can stand one under another.
    """

    rows: int
    columns: int
    codes: Tensor
    scales: Tensor
    steps: Tensor
    offsets: Tensor
    book: Tensor
    levels: Tensor

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.codes, self.scales, self.steps, self.offsets))


def quantize(weight: Tensor) -> NF4:
    """(rows, columns) → NF4; on a GPU by bitsandbytes' own quantiser, on a CPU by ``blockwise``, which takes the nearest value.

    (On a CPU, bitsandbytes takes one scale in 700 for its neighbour.) Raises ValueError when rows · columns is no multiple of 64.
    """
    rows, columns = weight.shape
    if weight.numel() % BLOCK:
        raise ValueError(f"{rows} x {columns} weights are no whole number of blocks of {BLOCK}")
    weight = weight.contiguous()
    return _quantize(weight) if weight.device.type == "cpu" else _quantize_on_gpu(weight)


def _quantize(weight: Tensor) -> NF4:
    levels, book = torch.tensor(LEVELS, device="cpu"), blockwise.dynamic_map(signed=True)
    codes, scales = [], []
    for blocks in torch.split(weight.view(-1, BLOCK), _AT_ONCE):
        halves, scale = blockwise.nearest(blocks.float(), levels)
        codes.append(halves[:, ::2] << 4 | halves[:, 1::2])
        scales.append(scale)
    scale = torch.cat(scales)
    offset = scale.mean()
    nested, steps = blockwise.encode(scale - offset, book)
    rows, columns = weight.shape
    return NF4(rows, columns, torch.cat(codes).flatten(), nested, steps, offset.expand_as(steps).contiguous(), book, levels)


def _quantize_on_gpu(weight: Tensor) -> NF4:
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    steps = state.state2.absmax.float()
    offsets = state.offset.float().reshape(1).expand_as(steps).contiguous()
    rows, columns = weight.shape
    return NF4(rows, columns, codes.reshape(-1), state.absmax, steps, offsets, state.state2.code.float(), state.code.float())


def gathered(weights: Sequence[NF4]) -> list[NF4]:
    """The same weights, their codes and scales in one block of memory.

    Matrices are quantised one by one, with large tensors between them that do not stay; left where they were made, they would lie scattered, and
    the allocator would hold on to pages that are nearly empty.
    """
    tensors = [tensor for weight in weights for tensor in (weight.codes, weight.scales, weight.steps, weight.offsets)]
    places = [0, *accumulate(-(-t.nbytes // _ALIGNED) * _ALIGNED for t in tensors)]
    block = torch.empty(places[-1], dtype=torch.uint8, device=tensors[0].device)
    moved = iter(block[first : first + t.nbytes].view(t.dtype).copy_(t) for t, first in zip(tensors, places, strict=False))
    return [NF4(w.rows, w.columns, next(moved), next(moved), next(moved), next(moved), w.book, w.levels) for w in weights]


def stack(parts: Sequence[NF4]) -> tuple[NF4, ...]:
    """The matrices one under another as one, so that one launch reads them all; as they are where a step would straddle two of them."""
    first = parts[0]
    if len(parts) == 1 or any(part.scales.numel() % NEST or part.columns != first.columns for part in parts):
        return tuple(parts)

    def joined(field: str) -> Tensor:
        return torch.cat([getattr(part, field) for part in parts])

    rows = sum(part.rows for part in parts)
    tables = (first.book, first.levels)
    return (NF4(rows, first.columns, joined("codes"), joined("scales"), joined("steps"), joined("offsets"), *tables),)
