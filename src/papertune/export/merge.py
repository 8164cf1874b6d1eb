"""W + scale · B · A, a few rows at a time, rounded exactly as PEFT's ``merge_and_unload`` does.

The sum over the rank and the addition to W are done in float32 and rounded once to the type of W (bf16 for nearly every base model). The
compiled product keeps one accumulator a value and runs over the rank in order with fused multiply-add, as the matrix libraries do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from papertune.export.quantize.floats import from_bfloat, to_bfloat

F = np.float32
COLUMNS = 512  # of A at once: 16 × 512 floats are 32 KiB
UNROLL = 4  # products summed before a sum goes back to memory


def widen(raw: NDArray[Any]) -> NDArray[np.float32]:
    """Stored values as float32. uint16 means bfloat16."""
    if raw.dtype == np.uint16:
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.astype(np.float32)


def merged_rows(raw: NDArray[Any], a: NDArray[np.float32], b: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Rows of the tuned weight as float32 with the precision of ``raw`` (rows × columns); ``a`` is rank × columns, ``b`` rows × rank."""
    delta = np.empty(raw.shape, np.float32)
    _product(b, a, delta)
    if raw.dtype == np.uint16:
        _add_bfloat(raw.reshape(-1), delta.reshape(-1), F(scale))
        return delta
    delta *= F(scale)
    delta += raw
    return delta.astype(raw.dtype).astype(np.float32)


@njit(nogil=True, fastmath={"contract"}, cache=True)
def _product(b, a, out):  # type: ignore[no-untyped-def]
    """B · A. A strip of A and a row of sums have fixed widths and no other name, so that the compiler makes vector loops of the inner two."""
    rows, rank = b.shape
    columns = a.shape[1]
    strip, factors, total = np.zeros((rank + UNROLL, COLUMNS), F), np.zeros(rank + UNROLL, F), np.empty(COLUMNS, F)
    for left in range(0, columns, COLUMNS):
        width = min(COLUMNS, columns - left)
        for k in range(rank):
            strip[k, :width] = a[k, left : left + width]
        for row in range(rows):
            factors[:rank] = b[row]
            total[:] = F(0)
            for first in range(0, rank, UNROLL):  # rows past the rank are zero
                for j in range(COLUMNS):
                    value = total[j]
                    for k in range(first, first + UNROLL):
                        value += factors[k] * strip[k, j]
                    total[j] = value
            out[row, left : left + width] = total[:width]


@njit(nogil=True, cache=True)
def _add_bfloat(raw, delta, scale):  # type: ignore[no-untyped-def]
    for i in range(raw.size):
        delta[i] = from_bfloat(to_bfloat(from_bfloat(raw[i]) + delta[i] * scale))
