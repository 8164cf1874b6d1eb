"""Types with one rounding and no search: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 without an importance matrix, F16, BF16.

The code of a value is round(x / d) with d = x_max / −half (Q4_0, Q5_0), (max − min) / top (Q4_1, Q5_1) or max|x| / 127 (Q8_0), where the
division is a product with the float32 inverse, and rounding is that of ggml: by adding one half and cutting off, or half away from zero.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from papertune.export.quantize.affine import ZERO, F, pack_32, put16
from papertune.export.quantize.floats import to_bfloat, to_half


@njit(nogil=True, error_model="numpy", cache=True)
def quantize_8_0(src, out):  # type: ignore[no-untyped-def]
    """Q8_0: blocks of 32, float16 scale, 32 signed bytes."""
    for block in range(src.size // 32):
        x = src[block * 32 : block * 32 + 32]
        largest = ZERO
        for i in range(32):
            largest = max(largest, abs(x[i]))
        d = largest / F(127)
        inverse = F(1) / d if d != ZERO else ZERO
        put16(to_half(d), out, block * 34)
        for i in range(32):
            value = x[i] * inverse
            whole = np.trunc(value)  # C's roundf: halves go away from zero
            whole += np.copysign(F(1), value) if abs(value - whole) >= F(0.5) else ZERO
            out[block * 34 + 2 + i] = np.uint8(np.int8(whole))


@njit(nogil=True, error_model="numpy", cache=True)
def quantize_signed(src, width, out):  # type: ignore[no-untyped-def]
    """Q4_0 (``width`` 4) or Q5_0 (5): float16 scale, 32 codes."""
    half = 1 << (width - 1)
    block_bytes = 18 if width == 4 else 22
    codes = np.empty(32, np.uint8)
    for block in range(src.size // 32):
        x = src[block * 32 : block * 32 + 32]
        largest, size = ZERO, ZERO
        for i in range(32):
            if size < abs(x[i]):
                largest, size = x[i], abs(x[i])
        d = largest / F(-half)
        inverse = F(1) / d if d != ZERO else ZERO
        for i in range(32):
            codes[i] = min(2 * half - 1, np.int32(x[i] * inverse + (F(half) + F(0.5))))
        put16(to_half(d), out, block * block_bytes)
        pack_32(codes, width, out, block * block_bytes + 2)


@njit(nogil=True, error_model="numpy", cache=True)
def quantize_offset(src, width, out):  # type: ignore[no-untyped-def]
    """Q4_1 (``width`` 4) or Q5_1 (5): float16 scale and minimum, 32 codes."""
    top = (1 << width) - 1
    block_bytes = 20 if width == 4 else 24
    codes = np.empty(32, np.uint8)
    for block in range(src.size // 32):
        x = src[block * 32 : block * 32 + 32]
        least, largest = x[0], x[0]
        for i in range(32):
            least = x[i] if x[i] < least else least
            largest = x[i] if x[i] > largest else largest
        d = (largest - least) / F(top)
        inverse = F(1) / d if d != ZERO else ZERO
        for i in range(32):
            codes[i] = min(top, np.int32((x[i] - least) * inverse + F(0.5)))
        put16(to_half(d), out, block * block_bytes)
        put16(to_half(least), out, block * block_bytes + 2)
        pack_32(codes, width, out, block * block_bytes + 4)


@njit(nogil=True, cache=True)
def as_half(src, out):  # type: ignore[no-untyped-def]
    """F16; ``out`` is uint16."""
    for i in range(src.size):
        out[i] = to_half(src[i])


@njit(nogil=True, cache=True)
def as_bfloat(src, out):  # type: ignore[no-untyped-def]
    """BF16; ``out`` is uint16."""
    for i in range(src.size):
        out[i] = to_bfloat(src[i])
