"""Numbers in 8 bits: a code each, and a float32 scale a block of 256; the value is map[code] × scale.

A map has 256 values from -1 (or 0) to 1, finer near zero: seven decades, each of twice as many steps as the one below it. NF4 keeps its scales so,
AdamW its moments. Codes, scales and maps are bitsandbytes'.

Dettmers 2016, arXiv 1511.04561; Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

BLOCK = 256  # numbers to a scale


def encode(numbers: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """(n) float32 → codes (n) uint8 of the nearest of ``values``, which ascend, and scales (⌈n / 256⌉) float32."""
    blocks = torch.nn.functional.pad(numbers, (0, -len(numbers) % BLOCK)).view(-1, BLOCK)
    codes, scales = nearest(blocks, values)
    return codes.flatten()[: len(numbers)], scales


def nearest(blocks: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """(blocks, n) float32 → codes (blocks, n) uint8 of the nearest of ``values`` and each block's scale, its largest absolute number."""
    scales = blocks.abs().amax(dim=1)
    shares = blocks * (1 / scales.clamp_min(torch.finfo(torch.float32).tiny))[:, None]
    return torch.bucketize(shares, (values[1:] + values[:-1]) / 2, out_int32=True).byte(), scales


def decode(codes: Tensor, scales: Tensor, values: Tensor) -> Tensor:
    """float32 (n)."""
    return values[codes.int()] * scales.repeat_interleave(BLOCK)[: len(codes)]


@cache
def dynamic_map(signed: bool) -> Tensor:
    """(256) float32 on the CPU, ascending: 0, 1, and of each decade from 1e-6 up the middles of 1, 2, 4 … (unsigned: 2, 4, 8 …) equal parts."""
    values = [0.0, 1.0]
    for decade in range(7):
        bounds = torch.linspace(0.1, 1, 2 ** (decade + (not signed)) + 1, device="cpu")
        middles = (10.0 ** (decade - 6) * ((bounds[:-1] + bounds[1:]) / 2)).tolist()
        values += [*middles, *(-middle for middle in middles)] if signed else middles
    return torch.tensor(sorted(values), device="cpu")
