"""The door to the quantisers: rows of float32 in, bytes of one tensor type out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from papertune.export.quantize import affine, plain, symmetric
from papertune.export.quantize.types import TensorType

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
_NONE = np.empty(0, np.float32)


def quantize(kind: TensorType, rows: Floats, out: Bytes, importance: Floats | None = None) -> None:
    """Writes ``rows`` (any number, each of whole blocks) as ``kind`` into ``out``. Releases the GIL.

    ``importance`` is one non-negative weight a column; types without a search ignore it. Raises ValueError when the shapes do not fit.
    """
    columns = rows.shape[1]
    expected = rows.shape[0] * kind.row_bytes(columns)
    if out.size != expected:
        raise ValueError(f"{rows.shape[0]} × {columns} values are {expected} bytes of {kind.name}, not {out.size}")
    if importance is not None and importance.shape != (columns,):
        raise ValueError(f"{importance.size} importances for {columns} columns")
    src = np.ascontiguousarray(rows, np.float32).reshape(-1)
    weights = _NONE if importance is None else np.ascontiguousarray(importance, np.float32)
    width = int(kind.name[1]) if kind.name.startswith("Q") else 0
    match kind.name:
        case "F32":
            out[:] = src.view(np.uint8)
        case "F16":
            plain.as_half(src, out.view(np.uint16))
        case "BF16":
            plain.as_bfloat(src, out.view(np.uint16))
        case "Q8_0":
            plain.quantize_8_0(src, out)
        case "Q4_K" | "Q5_K":
            ladders = affine.LADDERS_WEIGHTED if weights.size else affine.LADDERS
            affine.quantize_k(src, weights, columns, width, ladders[width], out)
        case "Q6_K":
            symmetric.quantize_6k(src, weights, columns, symmetric.LADDERS[32], out)
        case "Q4_0" | "Q5_0":
            if weights.size:
                symmetric.quantize_0(src, weights, columns, width, symmetric.LADDERS[1 << (width - 1)], out)
            else:
                plain.quantize_signed(src, width, out)
        case "Q4_1" | "Q5_1":
            if weights.size:
                affine.quantize_1(src, weights, columns, width, affine.LADDERS_WEIGHTED[width], out)
            else:
                plain.quantize_offset(src, width, out)


def compile_for(kinds: Iterable[TensorType], *, importance: bool = False) -> float:
    """Compiles (or loads from numba's cache) what ``kinds`` need, before threads start; returns the CPU seconds it took."""
    import time

    begin = time.process_time()
    for kind in kinds:
        zeros = np.zeros((1, 256), np.float32)
        quantize(kind, zeros, np.empty(kind.row_bytes(256), np.uint8), np.ones(256, np.float32) if importance else None)
    return time.process_time() - begin
