"""The quantisers write what ggml writes, byte for byte; their types say how much that is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from papertune.export.quantize.floats import from_half, to_bfloat, to_half
from papertune.export.quantize.kernels import quantize
from papertune.export.quantize.types import BY_NUMBER, TYPES, TensorType, fitting
from tests.ggml import quantize_with_ggml

Rows = NDArray[np.float32]
COLUMNS = 768  # three super-blocks: blocks of a row do not fill the lanes evenly
SEARCHED = [kind for kind in TYPES.values() if kind.block > 1]
random = np.random.default_rng(0)


def as_bf16(rows: NDArray[np.floating]) -> Rows:
    """Rounded to what a bf16 model can hold."""
    return (np.asarray(rows, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def edges() -> Rows:
    """Rows that end in the corners of the search: zeros, constants, one sign, subnormal scales, one large value, few distinct values."""
    normal = random.standard_normal((24, COLUMNS)) * 0.02
    rows = normal.copy()
    rows[0] = 0
    rows[1] = 0.01
    rows[2] = -0.3
    rows[3] = np.abs(rows[3])
    rows[4] = -np.abs(rows[4])
    rows[5] *= 1e-4
    rows[6] *= 1e-7
    rows[7] *= 1e-12
    rows[8] *= 1e-20
    rows[9] *= 1e4
    rows[10] = 0
    rows[10, 7] = 1
    rows[11] = 1e-15
    rows[12] = -1 + normal[12] * 0.05
    rows[13] = 1 + normal[13] * 1e-5
    rows[14] = random.integers(-3, 3, COLUMNS)
    rows[15] = random.integers(-1, 1, COLUMNS)
    rows[16] = random.integers(-1, 1, COLUMNS) * 0.03
    rows[17] = (random.random(COLUMNS) < 0.03) * normal[17]
    rows[18, ::32] = 5
    rows[19] = np.repeat(normal[19, ::32], 32)
    rows[20, :300] = 0
    rows[21] = np.where(random.random(COLUMNS) < 0.5, 1e-8, normal[21])
    rows[22] = -0.0
    return rows.astype(np.float32)


def spread(bf16: bool) -> Rows:
    """Blocks whose sizes differ by ten orders of magnitude, so that some sub-blocks round to nothing beside others."""
    sizes = np.exp(random.uniform(-20, 3, (32, COLUMNS // 32, 1)))
    rows = (random.standard_normal((32, COLUMNS // 32, 32)) * sizes).reshape(32, COLUMNS).astype(np.float32)
    return as_bf16(rows) if bf16 else rows


CASES = {
    "normal": (random.standard_normal((40, COLUMNS)) * 0.02).astype(np.float32),
    "heavy tails": as_bf16(random.standard_t(3, (40, COLUMNS)) * 0.01),
    "edges": edges(),
    "edges bf16": as_bf16(edges()),
    "spread": spread(False),
    "spread bf16": spread(True),
}
IMPORTANCE = {
    "none": None,
    "some": (random.random(COLUMNS) ** 4).astype(np.float32),
    "zeros": np.where(np.arange(COLUMNS) % 300 < 200, 0, random.random(COLUMNS)).astype(np.float32),
}


@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", SEARCHED, ids=lambda kind: kind.name)
def test_bytes_are_those_of_ggml(kind: TensorType, case: str, importance: str) -> None:
    rows, weights = CASES[case], IMPORTANCE[importance]
    ours = np.empty(rows.shape[0] * kind.row_bytes(COLUMNS), np.uint8)
    quantize(kind, rows, ours, weights)
    differing = (ours != quantize_with_ggml(kind, rows, weights)).reshape(rows.shape[0], -1).any(axis=1)
    assert not differing.any(), f"rows {np.flatnonzero(differing)}"


def test_the_comparison_can_fail() -> None:
    rows = CASES["normal"]
    ours = np.empty(rows.shape[0] * TYPES["Q4_K"].row_bytes(COLUMNS), np.uint8)
    quantize(TYPES["Q4_K"], np.nextafter(rows, np.float32(1)) * np.float32(1.001), ours)
    assert (ours != quantize_with_ggml(TYPES["Q4_K"], rows)).any()


@pytest.mark.parametrize("name", ["F16", "BF16", "F32"])
def test_plain_types_are_numpys(name: str) -> None:
    rows = np.concatenate([CASES["edges"], CASES["spread"]])
    out = np.empty(rows.size * TYPES[name].bytes, np.uint8)
    quantize(TYPES[name], rows, out)
    if name == "BF16":
        assert np.array_equal(out, quantize_with_ggml(TYPES[name], rows))
    else:
        dtype = np.float16 if name == "F16" else np.float32
        assert np.array_equal(out.view(dtype), rows.reshape(-1).astype(dtype))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_half_and_bfloat_round_as_the_hardware() -> None:
    values = random.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    assert [to_half(v) for v in values] == list(values.astype(np.float16).view(np.uint16))
    halves = np.arange(0, 0x7C00, 7, dtype=np.uint16)
    assert [from_half(h) for h in halves] == list(halves.view(np.float16).astype(np.float32))
    assert to_bfloat(np.float32(1.00390625)) == 0x3F80  # a tie goes to even
    assert to_bfloat(np.float32(1.01171875)) == 0x3F82


@pytest.mark.parametrize(
    ("name", "columns", "stands_in"),
    [("Q4_K", 4096, "Q4_K"), ("Q4_K", 32, "Q5_0"), ("Q5_K", 160, "Q5_1"), ("Q6_K", 64, "Q8_0"), ("Q4_K", 40, "F16"), ("Q8_0", 31, "F16")],
)
def test_rows_that_do_not_divide_fall_back_as_llama_quantize_does(name: str, columns: int, stands_in: str) -> None:
    assert fitting(name, columns).name == stands_in


def test_wrong_shapes_name_the_numbers() -> None:
    with pytest.raises(ValueError, match="40 values does not divide into Q4_0 blocks of 32"):
        TYPES["Q4_0"].row_bytes(40)
    with pytest.raises(ValueError, match=r"1 × 256 values are 144 bytes of Q4_K, not 10"):
        quantize(TYPES["Q4_K"], np.zeros((1, 256), np.float32), np.empty(10, np.uint8))
    with pytest.raises(ValueError, match="3 importances for 256 columns"):
        quantize(TYPES["Q4_K"], np.zeros((1, 256), np.float32), np.empty(144, np.uint8), np.ones(3, np.float32))


def test_numbers_are_ggmls() -> None:
    gguf = pytest.importorskip("gguf")
    for number, kind in BY_NUMBER.items():
        assert gguf.GGMLQuantizationType(number).name == kind.name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (kind.block, kind.bytes)
