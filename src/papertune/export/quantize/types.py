"""The tensor types of GGUF that papertune writes: how many values a block holds, and in how many bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorType:
    """``number`` is ggml's enumeration. ``fallback`` names the type llama-quantize takes for rows that do not divide into blocks."""

    name: str
    number: int
    block: int
    bytes: int
    fallback: str = "F16"

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row. Raises ValueError when the row does not divide into blocks."""
        if columns % self.block:
            raise ValueError(f"a row of {columns} values does not divide into {self.name} blocks of {self.block}")
        return columns // self.block * self.bytes


_ALL = (
    TensorType("F32", 0, 1, 4),
    TensorType("F16", 1, 1, 2),
    TensorType("BF16", 30, 1, 2),
    TensorType("Q4_0", 2, 32, 18),
    TensorType("Q4_1", 3, 32, 20),
    TensorType("Q5_0", 6, 32, 22),
    TensorType("Q5_1", 7, 32, 24),
    TensorType("Q8_0", 8, 32, 34),
    TensorType("Q4_K", 12, 256, 144, fallback="Q5_0"),
    TensorType("Q5_K", 13, 256, 176, fallback="Q5_1"),
    TensorType("Q6_K", 14, 256, 210, fallback="Q8_0"),
)
TYPES: dict[str, TensorType] = {t.name: t for t in _ALL}
BY_NUMBER: dict[int, TensorType] = {t.number: t for t in _ALL}


def fitting(name: str, columns: int) -> TensorType:
    """The type ``name``, or what stands in for it where rows of ``columns`` values do not divide into its blocks."""
    chosen = TYPES[name]
    while columns % chosen.block:
        chosen = TYPES[chosen.fallback]
    return chosen
