"""What a weight is under QLoRA, worked out apart from the code under test: bitsandbytes' 4-bit codes, and each scale as the nearest of its 8-bit map.

(Its own 8-bit codes of the scales are not the nearest ones on a CPU: one in 700 is a neighbour.)
"""

from __future__ import annotations

import torch
from torch import Tensor


def rounded(weight: Tensor) -> Tensor:
    """The weight after NF4 with double quantisation, in its own type."""
    from bitsandbytes.functional import create_dynamic_map, quantize_4bit

    codes, state = quantize_4bit(weight.detach().reshape(-1, 64), blocksize=64, quant_type="nf4", compress_statistics=False)
    halves = torch.stack((codes.flatten() >> 4, codes.flatten() & 15), dim=1).long()
    offset, values = state.absmax.mean(), create_dynamic_map(signed=True)
    scales = []
    for part in (state.absmax - offset).split(256):
        largest = part.abs().max()
        nearest = (part[:, None] * (1 / largest.clamp_min(1e-38)) - values).abs().argmin(dim=1)
        scales.append(values[nearest] * largest + offset)
    return (state.code[halves].view(-1, 64) * torch.cat(scales)[:, None]).to(weight.dtype).view(weight.shape)
