"""Q4_K, Q5_K and (with an importance matrix) Q4_1, Q5_1: value ≈ code × scale − minimum, code from 0 to ``top``.

For each block of 32 values, ``fit`` looks for the scale and minimum with the smallest weighted squared error. It tries a ladder of inverse
scales; each gives codes, the codes give the best scale and minimum for them by least squares, and the best try wins:

    code = round(clip(numerator / (largest − least) × (x − least), 0, top))
    scale = (Σw Σw·x·code − Σw·x Σw·code) / D,   least = (Σw·code² Σw·x − Σw·code Σw·x·code) / D,   D = Σw Σw·code² − (Σw·code)²

As in ggml's ``make_qkx2_quants`` / ``make_qkx3_quants``, ``least`` moves with the best try, so later tries start from it.

Q4_K and Q5_K put eight such blocks into a super-block with 6-bit scales and minima and a float16 unit for each; codes are then rounded
again for the stored scale. Per value and try 18 vector operations; 21 (Q4_K), 16 (Q5_K) or 37 (importance matrix) tries.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from papertune.export.quantize.floats import bits, from_half, to_half

F = np.float32
LANES = 64  # blocks worked on at once: eight super-blocks; x, w and codes take 24 KiB, which the first-level cache holds
UNROLL = 8  # values a lane sums up before its sums go back to memory; the compiler unrolls the loop
ZERO = F(0)
ROUND = F(12582912)  # 1.5 × 2**23: adding and subtracting it rounds to nearest, ties to even, for |x| < 2**22
TINY = F(1e-15)  # ggml's GROUP_MAX_EPS


def _ladder(top: int, first: float, step: float, tries: int) -> np.ndarray:
    """Numerators of the inverse scales, in ggml's order of float32 operations."""
    return np.array([F(F(F(first) + F(F(step) * F(i))) + F(top)) for i in range(tries)], F)


LADDERS = {4: _ladder(15, -1, 0.1, 21), 5: _ladder(31, -0.5, 0.1, 16)}
LADDERS_WEIGHTED = {4: _ladder(15, -0.9, 0.05, 37), 5: _ladder(31, -0.9, 0.05, 37)}


@njit(nogil=True, cache=True)
def nearest(value):  # type: ignore[no-untyped-def]
    """The nearest integer, ties to even, for |value| < 2**22."""
    return np.int32(bits(value + ROUND) & np.uint32(0x7FFFFF)) - np.int32(0x400000)


@njit(inline="always", error_model="numpy")
def fit(x, w, top, ladder, codes, scale, least, inverse, start):  # type: ignore[no-untyped-def]
    """Best ``scale`` and ``least`` of each of the ``LANES`` columns of ``x`` under the weights ``w``, both (32, LANES).

    The winning codes are ``round(clip(inverse × (x − start), 0, top))``. A constant column has scale and inverse 0. ``codes`` is scratch.
    """
    largest, sum_w, sum_x, best = np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F)
    sum_c, sum_cc, sum_xc, error = np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F)
    rung, this_scale, this_least, solvable = np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F)
    for lane in range(LANES):
        least[lane] = x[0, lane]
        largest[lane] = x[0, lane]
        sum_w[lane] = w[0, lane]
        sum_x[lane] = w[0, lane] * x[0, lane]
    for i in range(1, 32):
        for lane in range(LANES):
            value, weight = x[i, lane], w[i, lane]
            least[lane] = value if value < least[lane] else least[lane]
            largest[lane] = value if value > largest[lane] else largest[lane]
            sum_w[lane] += weight
            sum_x[lane] += weight * value
    for lane in range(LANES):
        least[lane] = ZERO if least[lane] > ZERO else least[lane]
        start[lane] = least[lane]
        inverse[lane] = top / (largest[lane] - least[lane])
        scale[lane] = F(1) / inverse[lane]
        best[lane] = ZERO
    for i in range(32):
        for lane in range(LANES):
            code = inverse[lane] * (x[i, lane] - least[lane])
            code = code if code < top else top
            code = code if code > ZERO else ZERO
            code = (code + ROUND) - ROUND
            off = scale[lane] * code + least[lane] - x[i, lane]
            best[lane] += w[i, lane] * (off * off)
    for lane in range(LANES):
        if largest[lane] <= least[lane]:  # constant, or nothing above zero: never improved upon
            scale[lane] = ZERO
            inverse[lane] = ZERO
            best[lane] = ZERO
    for numerator in ladder:
        for lane in range(LANES):
            rung[lane] = numerator / (largest[lane] - least[lane])
            sum_c[lane] = ZERO
            sum_cc[lane] = ZERO
            sum_xc[lane] = ZERO
            error[lane] = ZERO
        for first in range(0, 32, UNROLL):
            for lane in range(LANES):
                c, cc, xc, r, low = sum_c[lane], sum_cc[lane], sum_xc[lane], rung[lane], least[lane]
                for i in range(first, first + UNROLL):
                    code = r * (x[i, lane] - low)
                    code = code if code < top else top
                    code = code if code > ZERO else ZERO
                    code = (code + ROUND) - ROUND
                    codes[i, lane] = code
                    weighted = w[i, lane] * code
                    c += weighted
                    cc += weighted * code
                    xc += weighted * x[i, lane]
                sum_c[lane] = c
                sum_cc[lane] = cc
                sum_xc[lane] = xc
        for lane in range(LANES):
            determinant = sum_w[lane] * sum_cc[lane] - sum_c[lane] * sum_c[lane]
            s = (sum_w[lane] * sum_xc[lane] - sum_x[lane] * sum_c[lane]) / determinant
            low = (sum_cc[lane] * sum_x[lane] - sum_c[lane] * sum_xc[lane]) / determinant
            through_zero = sum_xc[lane] / sum_cc[lane]
            above = low > ZERO
            solvable[lane] = determinant
            this_scale[lane] = through_zero if above else s
            this_least[lane] = ZERO if above else low
        for first in range(0, 32, UNROLL):
            for lane in range(LANES):
                e, s, low = error[lane], this_scale[lane], this_least[lane]
                for i in range(first, first + UNROLL):
                    off = s * codes[i, lane] + low - x[i, lane]
                    e += w[i, lane] * (off * off)
                error[lane] = e
        for lane in range(LANES):
            better = (solvable[lane] > ZERO) & (error[lane] < best[lane])
            start[lane] = least[lane] if better else start[lane]
            inverse[lane] = rung[lane] if better else inverse[lane]
            best[lane] = error[lane] if better else best[lane]
            scale[lane] = this_scale[lane] if better else scale[lane]
            least[lane] = this_least[lane] if better else least[lane]


@njit(nogil=True, error_model="numpy", cache=True)
def quantize_k(src, importance, columns, width, ladder, out):  # type: ignore[no-untyped-def]
    """Q4_K (``width`` 4) or Q5_K (5). ``src`` holds whole rows of ``columns`` float32, ``importance`` one weight a column or nothing."""
    top = F((1 << width) - 1)
    block_bytes = 144 if width == 4 else 176
    x, w, codes = np.empty((32, LANES), F), np.empty((32, LANES), F), np.empty((32, LANES), F)
    scale, least, inverse, start = np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F)
    minimum, mass = np.empty(LANES, F), np.empty(LANES, F)
    scale_codes, minimum_codes, final = np.empty(8, np.uint8), np.empty(8, np.uint8), np.empty(256, np.uint8)
    blocks = src.size // 32
    for base in range(0, blocks, LANES):
        count = min(LANES, blocks - base)
        _load(src, base, count, x)
        if importance.size:
            weigh_super(src, importance, columns, base, count, w, mass)
        else:
            _weigh(x, w)
        fit(x, w, top, ladder, codes, scale, least, inverse, start)
        for lane in range(LANES):
            minimum[lane] = -least[lane]
        for first in range(0, count, 8):
            if importance.size:
                scale_unit = _share_weighted(scale[first : first + 8], mass[first : first + 8], scale_codes)
                minimum_unit = _share_weighted(minimum[first : first + 8], mass[first : first + 8], minimum_codes)
            else:
                scale_unit = _share(scale[first : first + 8], scale_codes)
                minimum_unit = _share(minimum[first : first + 8], minimum_codes)
            scale_half, minimum_half = to_half(scale_unit), to_half(minimum_unit)
            scale_unit, minimum_unit = from_half(scale_half), from_half(minimum_half)
            for j in range(8):
                s, low = scale_unit * F(scale_codes[j]), minimum_unit * F(minimum_codes[j])
                at = (base + first + j) * 32
                if s == ZERO:  # nothing to divide by: ggml keeps the codes of the search
                    _codes(src[at : at + 32], inverse[first + j], start[first + j], top, final[j * 32 : j * 32 + 32])
                    continue
                for i in range(32):
                    code = (src[at + i] + low) / s
                    code = code if code < top else top
                    code = code if code > ZERO else ZERO
                    final[j * 32 + i] = np.uint8(np.int32((code + ROUND) - ROUND))
            at = (base + first) // 8 * block_bytes
            _pack_super(scale_half, minimum_half, scale_codes, minimum_codes, final, width, out[at : at + block_bytes])


@njit(nogil=True, error_model="numpy", cache=True)
def quantize_1(src, importance, columns, width, ladder, out):  # type: ignore[no-untyped-def]
    """Q4_1 or Q5_1 under an importance matrix: one float16 scale and minimum a block, codes of the search."""
    top = F((1 << width) - 1)
    block_bytes = 20 if width == 4 else 24
    x, w, codes = np.empty((32, LANES), F), np.empty((32, LANES), F), np.empty((32, LANES), F)
    scale, least, inverse, start = np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F), np.empty(LANES, F)
    final = np.empty(32, np.uint8)
    blocks = src.size // 32
    for base in range(0, blocks, LANES):
        count = min(LANES, blocks - base)
        _load(src, base, count, x)
        weigh_rows(src, importance, columns, base, count, w)
        fit(x, w, top, ladder, codes, scale, least, inverse, start)
        for lane in range(count):
            at = (base + lane) * 32
            _codes(src[at : at + 32], inverse[lane], start[lane], top, final)
            block = out[(base + lane) * block_bytes : (base + lane + 1) * block_bytes]
            put16(to_half(scale[lane]), block, 0)
            put16(to_half(least[lane]), block, 2)
            pack_32(final, width, block, 4)


@njit(nogil=True, cache=True)
def pack_32(codes, width, block, at):  # type: ignore[no-untyped-def]
    """32 codes of 4 or 5 bits at ``at``: the fifth bits first (a little-endian word), then a byte for codes i and i + 16."""
    if width == 5:
        high = np.uint32(0)
        for i in range(32):
            high |= np.uint32(codes[i] >> 4) << np.uint32(i)
        for i in range(4):
            block[at + i] = np.uint8((high >> np.uint32(8 * i)) & np.uint32(0xFF))
        at += 4
    for i in range(16):
        block[at + i] = (codes[i] & 15) | ((codes[i + 16] & 15) << 4)


@njit(nogil=True, cache=True)
def put16(value, block, at):  # type: ignore[no-untyped-def]
    """Two bytes, little-endian."""
    block[at] = value & 0xFF
    block[at + 1] = value >> 8


@njit(nogil=True, error_model="numpy", cache=True)
def weigh_super(src, importance, columns, base, count, w, mass):  # type: ignore[no-untyped-def]
    """``w`` = importance × √(2·mean(x²) + x²), the mean over a super-block; ``mass`` is its sum over each block."""
    for first in range(0, count, 8):
        at = (base + first) * 32
        total = ZERO
        for i in range(256):
            total += src[at + i] * src[at + i]
        mean = F(2) * total / F(256)
        for lane in range(first, first + 8):
            at = (base + lane) * 32
            column = at % columns
            total = ZERO
            for i in range(32):
                weight = importance[column + i] * np.sqrt(mean + src[at + i] * src[at + i])
                w[i, lane] = weight
                total += weight
            mass[lane] = total
    for lane in range(count, LANES):
        for i in range(32):
            w[i, lane] = F(1)


@njit(nogil=True, error_model="numpy", cache=True)
def weigh_rows(src, importance, columns, base, count, w):  # type: ignore[no-untyped-def]
    """``w`` = importance × √(mean(x²) + x²), the mean over a whole row."""
    row, mean = -1, ZERO
    for lane in range(w.shape[1]):
        at = (base + min(lane, count - 1)) * 32
        if at // columns != row:
            row = at // columns
            total = ZERO
            for i in range(row * columns, (row + 1) * columns):
                total += src[i] * src[i]
            mean = total / F(columns)
        column = at % columns
        for i in range(32):
            w[i, lane] = importance[column + i] * np.sqrt(mean + src[at + i] * src[at + i])


@njit(nogil=True, cache=True)
def _load(src, base, count, x):  # type: ignore[no-untyped-def]
    """Blocks ``base`` … as columns of ``x``; lanes past ``count`` repeat the last block."""
    for lane in range(LANES):
        at = (base + min(lane, count - 1)) * 32
        for i in range(32):
            x[i, lane] = src[at + i]


@njit(nogil=True, error_model="numpy", cache=True)
def _weigh(x, w):  # type: ignore[no-untyped-def]
    """Without an importance matrix: ``w`` = √(mean(x²)) + |x|, the mean over the block."""
    total = np.zeros(LANES, F)
    for i in range(32):
        for lane in range(LANES):
            total[lane] += x[i, lane] * x[i, lane]
    for lane in range(LANES):
        total[lane] = np.sqrt(total[lane] / F(32))
    for i in range(32):
        for lane in range(LANES):
            w[i, lane] = total[lane] + abs(x[i, lane])


@njit(nogil=True, error_model="numpy", cache=True)
def _codes(x, inverse, start, top, codes):  # type: ignore[no-untyped-def]
    for i in range(32):
        code = inverse * (x[i] - start)
        code = code if code < top else top
        code = code if code > ZERO else ZERO
        codes[i] = np.uint8(np.int32((code + ROUND) - ROUND))


@njit(nogil=True, error_model="numpy", cache=True)
def _share(values, codes):  # type: ignore[no-untyped-def]
    """Eight scales or minima as 6-bit ``codes`` of a common unit, which is returned: the largest is 63."""
    largest = ZERO
    for value in values:
        largest = value if value > largest else largest
    inverse = F(63) / largest if largest > ZERO else ZERO
    for j in range(8):
        codes[j] = min(np.uint8(63), np.uint8(nearest(inverse * values[j]) & 0xFF))
    return largest / F(63)


@njit(nogil=True, error_model="numpy", cache=True)
def _share_weighted(values, mass, codes):  # type: ignore[no-untyped-def]
    """As ``_share``, but the unit and codes have the smallest squared error weighted by ``mass`` (ggml's ``make_qp_quants``)."""
    largest = ZERO
    for value in values:
        largest = value if value > largest else largest
    if largest < TINY:
        codes[:] = 0
        return ZERO
    inverse = F(63) / largest
    unit, best = F(1) / inverse, ZERO
    for j in range(8):
        off = values[j] - unit * F(nearest(inverse * values[j]) & 0xFF)
        best += mass[j] * off * off
    for step in range(-4, 5):
        if step == 0:
            continue
        rung = (F(0.1) * F(step) + F(63)) / largest
        unit, error = F(1) / rung, ZERO
        for j in range(8):
            off = values[j] - unit * F(min(63, nearest(rung * values[j])))
            error += mass[j] * off * off
        if error < best:
            best, inverse = error, rung
    sum_xc, sum_cc = ZERO, ZERO
    for j in range(8):
        code = min(63, nearest(inverse * values[j]))
        codes[j] = code & 0xFF
        sum_xc += mass[j] * values[j] * F(code)
        sum_cc += mass[j] * F(code) * F(code)
    for _ in range(5):  # coordinate descent: one code at a time, while the fit gets better
        changed = False
        for j in range(8):
            xc = sum_xc - mass[j] * values[j] * F(codes[j])
            cc = sum_cc - mass[j] * F(codes[j]) * F(codes[j])
            if not (xc > ZERO and cc > ZERO):
                continue
            code = min(63, nearest(values[j] * cc / xc))
            if code == codes[j]:
                continue
            xc += mass[j] * values[j] * F(code)
            cc += mass[j] * F(code) * F(code)
            if xc * xc * sum_cc > sum_xc * sum_xc * cc:
                codes[j] = code & 0xFF
                sum_xc, sum_cc, changed = xc, cc, True
        if not changed:
            break
    return sum_xc / sum_cc if sum_cc > ZERO else ZERO


@njit(nogil=True, cache=True)
def _pack_super(scale_half, minimum_half, scale_codes, minimum_codes, codes, width, block):  # type: ignore[no-untyped-def]
    """A super-block: two float16 units, 8 + 8 six-bit codes in 12 bytes, for Q5_K the fifth bits, then the low four bits."""
    put16(scale_half, block, 0)
    put16(minimum_half, block, 2)
    for j in range(4):
        block[4 + j] = scale_codes[j] | ((scale_codes[j + 4] >> 4) << 6)
        block[8 + j] = minimum_codes[j] | ((minimum_codes[j + 4] >> 4) << 6)
        block[12 + j] = (scale_codes[j + 4] & 15) | ((minimum_codes[j + 4] & 15) << 4)
    at = 16
    if width == 5:
        for i in range(32):
            high = np.uint8(0)
            for j in range(8):
                high |= (codes[j * 32 + i] >> 4) << j
            block[at + i] = high
        at += 32
    for j in range(4):
        for i in range(32):
            block[at + j * 32 + i] = (codes[j * 64 + i] & 15) | ((codes[j * 64 + 32 + i] & 15) << 4)
