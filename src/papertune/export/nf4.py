"""Weights as QLoRA training saw them: quantised to NF4 in blocks of 64 with double-quantised scales, and back to bf16.

An adapter learns on top of these, not of the base's own weights. Merging it into them reproduces the trained model more exactly; merging it
into the base's own brings back what NF4 had lost. ``docs/experiments.md`` has both measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from papertune.errors import MissingLibrary

BLOCK = 64  # weights under one scale


def through_nf4(matrix: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """A bf16 matrix (its bits) quantised and restored by bitsandbytes. Raises MissingLibrary."""
    try:
        import torch
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except ImportError as error:
        raise MissingLibrary(f"{error.name} is needed for --merge-base nf4.", "Run: pip install bitsandbytes; or leave the flag away.") from error
    weights = torch.from_numpy(matrix.view(np.int16)).view(torch.bfloat16)
    # As rows of one block each: on processors with AVX-512 bitsandbytes misreads rows that are no whole blocks.
    packed, state = quantize_4bit(weights.view(-1, BLOCK), blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    restored = dequantize_4bit(packed, state).contiguous()
    return restored.view(torch.int16).numpy().view(np.uint16).reshape(matrix.shape)
