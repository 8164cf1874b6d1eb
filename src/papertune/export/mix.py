"""Which type each tensor gets: llama-quantize's mixes.

``_M`` mixes give the more delicate matrices (values, down projections) of some layers two bits more; the output head always gets Q6_K or
better. Vectors stay F32. Source: ``llama_tensor_get_type_impl`` in llama.cpp's src/llama-quant.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from papertune.export.quantize.types import TYPES, TensorType, fitting


@dataclass(frozen=True, slots=True)
class Mix:
    """``main`` is the type of most matrices; ``file_type`` is llama.cpp's number for the whole file."""

    name: str
    main: str
    file_type: int


MIXES = {
    mix.name: mix
    for mix in (
        Mix("Q4_K_M", "Q4_K", 15),
        Mix("Q4_K_S", "Q4_K", 14),
        Mix("Q5_K_M", "Q5_K", 17),
        Mix("Q5_K_S", "Q5_K", 16),
        Mix("Q6_K", "Q6_K", 18),
        Mix("Q8_0", "Q8_0", 7),
        Mix("Q4_0", "Q4_0", 2),
        Mix("Q5_0", "Q5_0", 8),
        Mix("F16", "F16", 1),
        Mix("BF16", "BF16", 32),
    )
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a mix depends on besides the tensor. ``many_values`` says that several query heads share a value head in an 80-layer model."""

    layers: int
    tied: bool
    weighted: bool
    shared_70b: bool


def type_of(mix: Mix, name: str, shape: tuple[int, ...], model: Shape) -> TensorType:
    """The type of the tensor ``name`` (GGUF name) with this shape (rows, columns)."""
    if len(shape) < 2 or name.endswith("_norm.weight"):
        return TYPES["F32"]
    if mix.main in ("F16", "BF16"):
        return TYPES[mix.main]
    columns, main = shape[-1], mix.main
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        return TYPES["Q8_0"] if columns % TYPES[main].block or main == "Q8_0" else fitting("Q6_K", columns)
    chosen = main
    if name.startswith("blk."):
        layer, part = int(name.split(".")[1]), name.split(".")[2]
        if part == "attn_v":
            chosen = _values(mix, layer, model)
        elif part == "ffn_down":
            chosen = _down(mix, layer, model)
    return fitting(chosen, columns)


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _values(mix: Mix, layer: int, model: Shape) -> str:
    chosen = mix.main
    if mix.name in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, model.layers):
        chosen = "Q6_K"
    elif mix.name == "Q4_K_S" and layer < 4:
        chosen = "Q5_K"
    return "Q5_K" if model.shared_70b and chosen == "Q4_K" else chosen


def _down(mix: Mix, layer: int, model: Shape) -> str:
    early = layer < model.layers // 8
    if mix.name in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, model.layers):
        return "Q6_K"
    if mix.name == "Q4_K_S" and early:
        return "Q5_K"
    if mix.name in ("Q4_0", "Q5_0") and model.weighted and early:
        return "Q4_1" if mix.name == "Q4_0" else "Q5_1"
    return mix.main
