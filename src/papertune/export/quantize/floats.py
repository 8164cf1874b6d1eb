"""Conversions between float32, float16 and bfloat16 inside compiled code, rounding to nearest, ties to even, as the hardware does."""

from __future__ import annotations

import numpy as np
from numba import njit, uint16, uint32

_HALF = np.float32(0.5)
_SMALLEST_HALF = np.float32(2.0**-24)


@njit(inline="always")
def bits(value):  # type: ignore[no-untyped-def]
    """The 32 bits of a float32."""
    return np.float32(value).view(np.uint32)


@njit(inline="always")
def from_bits(pattern):  # type: ignore[no-untyped-def]
    """The float32 of 32 bits."""
    return np.uint32(pattern).view(np.float32)


@njit(nogil=True, cache=True)
def to_half(value):  # type: ignore[no-untyped-def]
    """float32 → the 16 bits of its float16. Too large becomes infinity; NaN stays NaN."""
    pattern = bits(value)
    sign = (pattern >> uint32(16)) & uint32(0x8000)
    size = pattern & uint32(0x7FFFFFFF)
    if size > uint32(0x7F800000):  # NaN: quiet, the payload's top bits kept, as the instruction does
        return uint16(sign | uint32(0x7E00) | ((size >> uint32(13)) & uint32(0x1FF)))
    if size >= uint32(0x47800000):
        return uint16(sign | uint32(0x7C00))
    if size < uint32(0x38800000):  # subnormal: adding 0.5 lets the float unit round at 2**-24
        return uint16(sign | (bits(from_bits(size) + _HALF) - uint32(0x3F000000)))
    size += uint32(0xFFF) + ((size >> uint32(13)) & uint32(1))
    return uint16(sign | ((size - uint32(0x38000000)) >> uint32(13)))


@njit(nogil=True, cache=True)
def from_half(pattern):  # type: ignore[no-untyped-def]
    """The 16 bits of a finite float16 → float32."""
    size = uint32(pattern) & uint32(0x7FFF)
    value = from_bits((size << uint32(13)) + uint32(0x38000000)) if size >= uint32(0x400) else np.float32(size) * _SMALLEST_HALF
    return -value if pattern & uint16(0x8000) else value


@njit(inline="always")
def to_bfloat(value):  # type: ignore[no-untyped-def]
    """float32 → the 16 bits of its bfloat16. NaN stays NaN."""
    pattern = bits(value)
    if (pattern & uint32(0x7FFFFFFF)) > uint32(0x7F800000):
        return uint16((pattern >> uint32(16)) | uint32(0x40))
    return uint16((pattern + uint32(0x7FFF) + ((pattern >> uint32(16)) & uint32(1))) >> uint32(16))


@njit(inline="always")
def from_bfloat(pattern):  # type: ignore[no-untyped-def]
    """The 16 bits of a bfloat16 → float32."""
    return from_bits(uint32(pattern) << uint32(16))
