"""The Triton kernels against the plain torch that defines them, in float32: on a GPU where there is one, else by Triton's interpreter.

(The interpreter cuts float32 to bfloat16 where a GPU rounds; ``test_gpu.py`` has the 16-bit types.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from papertune.config import SEVEN_PROJECTIONS
from papertune.kernels import reference
from papertune.kernels.nf4 import NF4
from papertune.kernels.reference import Mask
from papertune.train.fast.engine import FastEngine
from papertune.train.fast.rehearsal import go_through, without_numbers
from papertune.train.model import Device
from tests.kernels.test_fast_engine import MODELS, make_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and not os.environ.get("TRITON_INTERPRET"):
    pytest.skip("test_interpreted.py runs it in a process of its own", allow_module_level=True)
fused = pytest.importorskip("papertune.kernels.fused", reason="Triton is not installed")

SHAPES = [(4, 64), (5, 123), (3, 2304)]  # tokens, width: friendly, awkward, wider than a program's columns
EPS = 1e-5


def close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def wider(rows: int, width: int, by: int = 24) -> Tensor:
    """A matrix whose rows stand apart in memory, its gaps filled with a value that must never be read or written."""
    return torch.full((rows, width + by), math.nan)[:, :width]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.device(DEVICE) if DEVICE == "cuda" else nullcontext():
        yield


@pytest.mark.parametrize(("rows", "columns"), [(16, 64), (3, 192), (130, 128), (2, 4160)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dequantize_gives_the_same_bits(rows: int, columns: int, dtype: torch.dtype) -> None:
    blocks = rows * columns // 64
    steps = -(-blocks // 256)
    weight = NF4(
        rows, columns, torch.randint(0, 256, (rows * columns // 2,), dtype=torch.uint8), torch.randint(0, 256, (blocks,), dtype=torch.uint8),
        torch.rand(steps), torch.rand(1).expand(steps).contiguous(), torch.linspace(-1, 1, 256), torch.linspace(-1, 1, 16),
    )  # fmt: skip
    ours, theirs = wider(rows, columns).to(dtype), torch.empty(rows, columns, dtype=dtype)
    fused.dequantize(weight, ours)
    reference.dequantize(weight, theirs)
    assert torch.equal(ours, theirs)
    for wider_by, higher_by, rank in ((0, 0, 8), (24, 24, 10), (16, 0, 8)):  # R, rows below, of which 20 are A's, rank
        first, last = rows // 3, rows // 2  # these rows have no LoRA weights, those after them the second B's
        places = torch.tensor([[i, 0] if i < first else [-1, 0] if i < last else [i - last + first, rank] for i in range(rows)]).int()
        if not wider_by:
            places[:, 0] = -1
        b, a = torch.rand(rows - last + first, rank), torch.rand(min(20, higher_by), columns)
        ours = torch.full((rows + higher_by, columns + wider_by), 7.0, dtype=dtype)
        theirs = ours.clone()
        fused.join(weight, a, b, places, ours)
        reference.join(weight, a, b, places, theirs)
        assert torch.equal(ours, theirs)
        if higher_by == wider_by:
            a, b = torch.rand_like(a), torch.rand_like(b)
            fused.renew(a, b, places, ours)
            reference.renew(a, b, places, theirs)
            assert torch.equal(ours, theirs)


def masks(tokens: int) -> list[Mask | None]:
    keys = torch.randint(-(2**31), 2**31, (tokens,)).int()
    return [None, Mask(keys, 0, 0.05), Mask(keys, 2**31 - 1, 0.6)]


@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_rms_norm(tokens: int, width: int) -> None:
    x, weight = torch.randn(tokens, width), torch.randn(width)
    for mask in masks(tokens):
        ours, theirs, copy = wider(tokens, width), torch.empty(tokens, width), None if mask is None else torch.empty_like(x)
        r, fed = fused.rms_norm(x, weight, EPS, ours, mask, copy)
        wanted, dropped = reference.rms_norm(x, weight, EPS, theirs, mask, None)
        assert copy is None or torch.equal(copy, x)
        close(ours, theirs)
        close(r, wanted)
        close(fed, dropped)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_rms_norm_backward(tokens: int, width: int, which: int) -> None:
    mask = masks(tokens)[which]
    x, weight, total = torch.randn(tokens, width), torch.randn(width), wider(tokens, width).copy_(torch.randn(tokens, width))
    dy = wider(tokens, width).copy_(torch.randn(tokens, width))
    r, _ = reference.rms_norm(x, weight, EPS, torch.empty_like(x), None, None)
    wanted, normed = total.clone(), dy.clone()
    reference.rms_norm_backward(normed, x, weight, r, wanted, mask)
    fused.rms_norm_backward(dy, x, weight, r, total, mask)
    close(total, wanted)
    close(dy, normed)


@pytest.mark.parametrize(("heads", "size", "rest"), [(4, 64, 128), (5, 24, 7), (1, 6, 0)])
def test_rope(heads: int, size: int, rest: int) -> None:
    x, angle = torch.randn(6, heads * size + rest), torch.randn(6, size // 2)
    wanted = x.clone()
    reference.rope(wanted, angle.cos(), angle.sin(), heads)
    fused.rope(x, angle.cos(), angle.sin(), heads)
    close(x, wanted)


@pytest.mark.parametrize(("heads", "shared", "size"), [(4, 4, 64), (2, 1, 16), (3, 5, 24), (1, 2, 6)])
def test_heads_are_spread_and_gathered(heads: int, shared: int, size: int) -> None:
    qkv, angle = wider(6, (heads * shared + 2 * heads) * size), torch.randn(6, size // 2)
    q, k, v = (part.unflatten(1, (-1, size)) for part in qkv.split([heads * shared * size, heads * size, heads * size], dim=1))
    k.copy_(torch.randn(6, heads, size))
    v.copy_(torch.randn(6, heads, size))
    close(fused.spread(k, v, shared), reference.spread(k, v, shared))
    gradients = [torch.randn(6, heads * shared, size) for _ in range(3)]
    theirs = [torch.empty(6, n, size) for n in (heads * shared, heads, heads)]
    fused.put_gradients(*gradients, q, k, v, angle.cos(), angle.sin())
    reference.put_gradients(*gradients, *theirs, angle.cos(), angle.sin())
    for mine, wanted in zip((q, k, v), theirs, strict=True):
        close(mine, wanted)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_swiglu_and_its_backward(tokens: int, width: int, which: int) -> None:
    mask = masks(tokens)[which]
    gate_up = wider(tokens, 2 * width).copy_(torch.randn(tokens, 2 * width))
    ours, theirs = wider(tokens, width), torch.empty(tokens, width)
    fed, dropped = fused.swiglu(gate_up, ours, mask), reference.swiglu(gate_up, theirs, mask)
    close(ours, theirs)
    close(fed, dropped)
    d, wanted = wider(tokens, width).copy_(torch.randn(tokens, width)), wider(tokens, 2 * width).copy_(gate_up)
    reference.swiglu_backward(d.clone(), wanted, mask)
    fused.swiglu_backward(d, gate_up, mask)
    close(gate_up, wanted)
    close(d, dropped)


@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_dropout_drops_the_same_numbers(tokens: int, width: int) -> None:
    x, ours = wider(tokens, width).copy_(torch.randn(tokens, width)), wider(tokens, width)
    for mask in masks(tokens):
        dropped = reference.dropout(x, mask)
        close(fused.put(x.contiguous(), ours, mask), dropped)
        assert torch.equal(ours, x)
        if mask is not None:
            close(fused.dropout(x, mask), dropped)


@pytest.mark.parametrize("rank", [16, 48])
@pytest.mark.parametrize(("tokens", "width"), [*SHAPES, (70, 200)])
def test_lora_backward(tokens: int, width: int, rank: int) -> None:
    v, a = wider(tokens, rank).copy_(torch.randn(tokens, rank)), wider(rank, width).copy_(torch.randn(rank, width))
    for mask in masks(tokens)[1:]:
        ours = wider(tokens, width).copy_(torch.randn(tokens, width))
        theirs = ours.clone()
        fused.lora_backward(v, a, ours, mask)
        reference.lora_backward(v, a, theirs, mask)
        close(ours, theirs, 2e-5)


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(4, 64, 96), (70, 200, 130), (130, 64, 300)])
def test_gather(tokens: int, inputs: int, outputs: int) -> None:
    rank, columns, first = 10, 32, outputs // 3  # rows from ``first`` to the second third are not trained
    places = torch.tensor([[i, 0] if i < first else [-1, 0] if i < 2 * first else [i - first, rank] for i in range(outputs)]).int()
    dy = wider(tokens, outputs + columns).copy_(torch.randn(tokens, outputs + columns))
    fed, u = (wider(tokens, width).copy_(torch.randn(tokens, width)) for width in (inputs, columns))
    ours = [torch.randn(2 * rank, inputs), torch.randn(outputs - first, rank)]
    theirs = [gradient.clone() for gradient in ours]
    fused.gather(dy, fed, u, *ours, places)
    reference.gather(dy, fed, u, *theirs, places)
    for mine, wanted in zip(ours, theirs, strict=True):
        close(mine, wanted, 2e-5)


@pytest.mark.parametrize(("positions", "vocabulary"), [(4, 64), (3, 123), (2, 20_000)])
def test_cross_entropy(positions: int, vocabulary: int) -> None:
    logits = torch.randn(positions, vocabulary) * 5
    targets = torch.randint(0, vocabulary, (positions,))
    targets[-1] = reference.IGNORED
    wanted = logits.clone()
    losses = reference.cross_entropy(wanted, targets, 0.25)
    close(fused.cross_entropy(logits, targets, 0.25), losses, 1e-5)
    close(logits, wanted)


@pytest.mark.skipif(DEVICE == "cuda", reason="it would compile them all; test_rehearsal.py does for one")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("targets", "rank", "dropout"), [(SEVEN_PROJECTIONS, 16, 0.05), (("q_proj",), 4, 0.0), (("down_proj", "k_proj"), 8, 0.1)])
def test_a_rehearsal_gets_through_every_kind_of_model(name: str, targets: tuple[str, ...], rank: int, dropout: float, tmp_path: Path) -> None:
    """An error in it would keep a model from being trained at all."""
    base, device = make_model(tmp_path / "model", **MODELS[name]), Device("cuda", torch.bfloat16, "a card that is not here")
    engine = FastEngine(base, without_numbers(base, device), device, rank=rank, alpha=16.0, dropout=dropout, targets=targets)
    go_through(engine)
    assert engine.lora.gradient.is_meta, "nothing was computed"
