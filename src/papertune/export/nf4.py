"""Weights as QLoRA training saw them: quantised to NF4 in blocks of 64 with double-quantised scales, and back to bf16.

An adapter learns on top of these, not of the base's own weights. Merging it into them reproduces the trained model more exactly; merging it
into the base's own brings back what NF4 had lost. ``docs/experiments.md`` has both measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from papertune.errors import MissingLibrary


def through_nf4(matrix: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """A bf16 matrix (its bits) quantised and restored. Raises MissingLibrary."""
    try:
        import torch
    except ImportError as error:
        raise MissingLibrary("torch is needed for --merge-base nf4.", "Run: pip install torch; or leave the flag away.") from error
    from papertune.kernels import nf4, ops

    weights = torch.from_numpy(matrix.view(np.int16)).view(torch.bfloat16)
    restored = torch.empty_like(weights)
    ops.dequantize(nf4.quantize(weights), restored)
    return restored.view(torch.int16).numpy().view(np.uint16)
