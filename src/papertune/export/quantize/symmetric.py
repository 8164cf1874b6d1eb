"""Q6_K and (with an importance matrix) Q4_0, Q5_0: value ≈ code × scale, code from −half to half − 1.

For each block ``fit`` tries the inverse scales −(half + 0.1·k) / x_max, k = 0, −9 … 9, where x_max is the value of largest size, and keeps
the one whose least-squares scale Σw·x·code / Σw·code² explains most (ggml's ``make_qx_quants``). The weight is x² or comes from the
importance matrix. Q6_K puts 16 blocks of 16 values into a super-block with 8-bit scales and one float16 unit. Per value and try 11 vector
operations, 19 tries.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint32

from papertune.export.quantize.affine import ROUND, TINY, ZERO, F, nearest, pack_32, put16, weigh_rows
from papertune.export.quantize.floats import bits, from_half, to_half

LANES = 128  # blocks worked on at once: eight super-blocks; x and w take 16 KiB (32 KiB for blocks of 32)
UNROLL = 8


def ladder(half: int) -> np.ndarray:
    """Numerators of the inverse scales, the plain one first, in ggml's order of float32 operations."""
    return np.array([F(-half)] + [F(-F(F(half) + F(F(0.1) * F(k)))) for k in range(-9, 10) if k], F)


LADDERS = {half: ladder(half) for half in (8, 16, 32)}


@njit(inline="always", error_model="numpy")
def fit(x, w, size, numerators, scale, inverse):  # type: ignore[no-untyped-def]
    """Best ``scale`` of each of the ``LANES`` columns of the first ``size`` rows of ``x`` under the weights ``w``.

    The winning codes are ``round(clip(inverse × x, −half, half − 1)) + half``. A column of zeros has scale and inverse 0.
    """
    largest, size_of_largest, best, rung = np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F)
    sum_xc, sum_cc = np.empty(LANES, F), np.empty(LANES, F)
    low = numerators[0]  # −half; read rather than passed, because for a constant the compiler makes slower code of the two bounds
    high = -low - F(1)
    for lane in range(LANES):
        largest[lane] = ZERO
        size_of_largest[lane] = ZERO
    for first in range(0, size, UNROLL):
        for lane in range(LANES):
            value, most = largest[lane], size_of_largest[lane]
            for i in range(first, first + UNROLL):
                larger = abs(x[i, lane]) > most
                most = abs(x[i, lane]) if larger else most
                value = x[i, lane] if larger else value
            largest[lane] = value
            size_of_largest[lane] = most
    for k in range(numerators.size):
        for lane in range(LANES):
            rung[lane] = numerators[k] / largest[lane]
            sum_xc[lane] = ZERO
            sum_cc[lane] = ZERO
        for first in range(0, size, UNROLL):
            for lane in range(LANES):
                xc, cc, r = sum_xc[lane], sum_cc[lane], rung[lane]
                for i in range(first, first + UNROLL):
                    code = r * x[i, lane]
                    code = code if code < high else high
                    code = code if code > low else low
                    code = (code + ROUND) - ROUND
                    xc += w[i, lane] * x[i, lane] * code
                    cc += w[i, lane] * code * code
                sum_xc[lane] = xc
                sum_cc[lane] = cc
        if k == 0:
            for lane in range(LANES):
                explained = sum_xc[lane] / sum_cc[lane]
                scale[lane] = ZERO if sum_cc[lane] == ZERO else explained
                best[lane] = scale[lane] * sum_xc[lane]
                inverse[lane] = rung[lane]
        else:
            for lane in range(LANES):
                better = (sum_cc[lane] > ZERO) & (sum_xc[lane] * sum_xc[lane] > best[lane] * sum_cc[lane])
                explained = sum_xc[lane] / sum_cc[lane]
                scale[lane] = explained if better else scale[lane]
                best[lane] = explained * sum_xc[lane] if better else best[lane]
                inverse[lane] = rung[lane] if better else inverse[lane]
    for lane in range(LANES):
        if size_of_largest[lane] < TINY:
            scale[lane] = ZERO
            inverse[lane] = ZERO


@njit(nogil=True, error_model="numpy", cache=True)
def quantize_6k(src, importance, columns, numerators, out):  # type: ignore[no-untyped-def]
    """Q6_K. ``src`` holds whole rows of ``columns`` float32, ``importance`` one weight a column or nothing."""
    x, w = np.empty((16, LANES), F), np.empty((16, LANES), F)
    scale, inverse, codes, scale_codes = np.empty(LANES, F), np.empty(LANES, F), np.empty(256, np.uint8), np.empty(16, np.int8)
    blocks = src.size // 16
    for base in range(0, blocks, LANES):
        count = min(LANES, blocks - base)
        for lane in range(LANES):
            at = (base + min(lane, count - 1)) * 16
            column = at % columns
            for i in range(16):
                x[i, lane] = src[at + i]
            if importance.size:
                for i in range(16):
                    w[i, lane] = importance[column + i]
        if not importance.size:
            for i in range(16):
                for lane in range(LANES):
                    w[i, lane] = x[i, lane] * x[i, lane]
        fit(x, w, 16, numerators, scale, inverse)
        for first in range(0, count, 16):
            block = out[(base + first) // 16 * 210 : ((base + first) // 16 + 1) * 210]
            largest, size_of_largest = ZERO, ZERO
            for j in range(first, first + 16):
                if abs(scale[j]) > size_of_largest:
                    largest, size_of_largest = scale[j], abs(scale[j])
            if size_of_largest < TINY:
                block[:] = 0
                continue
            to_code = F(-128) / largest
            unit_half = to_half(F(1) / to_code)
            unit = from_half(unit_half)
            for j in range(16):
                scale_codes[j] = min(127, nearest(to_code * scale[first + j]))
                step, kept = unit * F(scale_codes[j]), inverse[first + j]  # no step to divide by: ggml keeps the codes of the search, 0 without one
                at = (base + first + j) * 16
                for i in range(16):
                    code = src[at + i] / step if step != ZERO else kept * src[at + i] if kept != ZERO else F(-32)
                    code = code if code < F(31) else F(31)
                    code = code if code > F(-32) else F(-32)
                    codes[j * 16 + i] = (bits(code + ROUND) + uint32(32)) & uint32(0xFF)
            _pack_6k(codes, scale_codes, unit_half, block)


@njit(nogil=True, error_model="numpy", cache=True)
def quantize_0(src, importance, columns, width, numerators, out):  # type: ignore[no-untyped-def]
    """Q4_0 or Q5_0 under an importance matrix: one float16 scale a block of 32, codes of the search."""
    half = F(1 << (width - 1))
    block_bytes = 18 if width == 4 else 22
    x, w = np.empty((32, LANES), F), np.empty((32, LANES), F)
    scale, inverse, codes = np.empty(LANES, F), np.empty(LANES, F), np.empty(32, np.uint8)
    blocks = src.size // 32
    for base in range(0, blocks, LANES):
        count = min(LANES, blocks - base)
        for lane in range(LANES):
            at = (base + min(lane, count - 1)) * 32
            for i in range(32):
                x[i, lane] = src[at + i]
        weigh_rows(src, importance, columns, base, count, w)
        fit(x, w, 32, numerators, scale, inverse)
        for lane in range(count):
            at = (base + lane) * 32
            _codes(src[at : at + 32], inverse[lane], half, codes)
            block = out[(base + lane) * block_bytes : (base + lane + 1) * block_bytes]
            put16(to_half(scale[lane]), block, 0)
            pack_32(codes, width, block, 2)


@njit(nogil=True, error_model="numpy", cache=True)
def _codes(x, inverse, half, codes):  # type: ignore[no-untyped-def]
    """The codes of the search; ggml leaves 0 where it did not search."""
    for i in range(x.size):
        code = inverse * x[i]
        code = code if code < half - F(1) else half - F(1)
        code = code if code > -half else -half
        codes[i] = np.uint8(np.int32((code + ROUND) - ROUND) + np.int32(half)) if inverse != ZERO else np.uint8(0)


@njit(nogil=True, cache=True)
def _pack_6k(codes, scale_codes, unit_half, block):  # type: ignore[no-untyped-def]
    """128 bytes of low four bits, 64 of high two bits, 16 scales, the float16 unit."""
    for part in range(2):
        at, low, high = part * 128, part * 64, 128 + part * 32
        for i in range(32):
            a, b, c, d = codes[at + i], codes[at + 32 + i], codes[at + 64 + i], codes[at + 96 + i]
            block[low + i] = (a & 15) | ((c & 15) << 4)
            block[low + 32 + i] = (b & 15) | ((d & 15) << 4)
            block[high + i] = (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((d >> 4) << 6)
    for j in range(16):
        block[192 + j] = np.uint8(scale_codes[j])
    put16(unit_half, block, 208)
