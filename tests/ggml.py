"""ggml's own quantisers, out of the package xllamacpp, as the oracle for ours."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from papertune.export.quantize.types import TensorType


@cache
def _function() -> Any:
    spec = importlib.util.find_spec("xllamacpp")
    found = sorted(Path(spec.submodule_search_locations[0]).glob("xllamacpp*.so")) if spec and spec.submodule_search_locations else []
    if not found:
        return None
    function = ctypes.CDLL(str(found[0])).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return function


def quantize_with_ggml(kind: TensorType, rows: NDArray[np.float32], importance: NDArray[np.float32] | None = None) -> NDArray[np.uint8]:
    """Skips the test where ggml is not installed."""
    function = _function()
    if function is None:
        pytest.skip("xllamacpp, which holds ggml, is not installed")
    rows = np.ascontiguousarray(rows, np.float32)
    out = np.empty(rows.shape[0] * kind.row_bytes(rows.shape[1]), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    function(kind.number, rows.ctypes.data, out.ctypes.data, 0, *rows.shape, weights)
    return out
