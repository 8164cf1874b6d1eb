"""The ops on a GPU in bfloat16, against plain torch in float64 on the same numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from papertune.kernels import nf4, ops, reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")]

ROUNDING = 2**-8  # of bfloat16, relative


@pytest.fixture(autouse=True)
def _on_the_gpu() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.device("cuda"):
        yield


def distance(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


def half(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16)


def test_dequantised_bits_are_those_of_bitsandbytes() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    parts = [half(256, 512) * 0.02, half(64, 512) * 3, half(64, 512)]
    (stacked,) = nf4.stack([nf4.quantize(part) for part in parts])
    out = torch.full((384, 512 + 48), torch.nan, dtype=torch.bfloat16)
    ops.dequantize(stacked, out[:, :512])
    theirs = [dequantize_4bit(*quantize_4bit(part, blocksize=64, compress_statistics=True, quant_type="nf4")) for part in parts]
    assert torch.equal(out[:, :512], torch.cat(theirs))
    assert out[:, 512:].isnan().all()


def test_lora_weights_beside_dequantised_ones_are_rounded_to_their_type() -> None:
    weight, places = nf4.quantize(half(192, 512)), torch.stack((torch.arange(192), torch.arange(192) // 64 * 16), dim=1).int()
    ours, theirs = (torch.zeros(192 + 48, 512 + 48, dtype=torch.bfloat16) for _ in range(2))
    for op, of in (("join", [weight]), ("renew", [])):
        a, b = torch.randn(48, 512), torch.randn(192, 16)
        getattr(ops, op)(*of, a, b, places, ours)
        getattr(reference, op)(*of, a, b, places, theirs)
        assert torch.equal(ours, theirs)


def test_a_cpu_quantises_as_bitsandbytes_does_on_a_gpu() -> None:
    weight = half(256, 1024) * 0.02
    theirs, ours = nf4.quantize(weight), nf4.quantize(weight.cpu())
    assert torch.equal(ours.codes, theirs.codes.cpu())
    assert (ours.scales != theirs.scales.cpu()).sum() <= 2, "of 4,096; the mean of all scales is summed in another order"
    torch.testing.assert_close(ours.book, theirs.book.cpu(), rtol=0, atol=0)


@pytest.mark.parametrize("width", [4096, 3072, 200])
def test_norms(width: int) -> None:
    x, weight, dy, total = half(33, width), half(width), half(33, width), half(33, width)
    out, exact = torch.empty_like(x), torch.empty_like(x, dtype=torch.float64)
    r, _ = ops.rms_norm(x, weight, 1e-5, out)
    exact_r, _ = reference.rms_norm(x.double(), weight.double(), 1e-5, exact, None, None)
    assert distance(out, exact) < ROUNDING
    wanted = total.double()
    reference.rms_norm_backward(dy.double(), x.double(), weight.double(), exact_r, wanted, None)
    ops.rms_norm_backward_(dy, x, weight, r, total)
    assert distance(total, wanted) < ROUNDING
    assert torch.equal(dy, out), "the norm's output is made again"


def test_swiglu() -> None:
    gate_up, d = half(33, 2 * 1500), half(33, 1500)
    out, exact = torch.empty_like(d), torch.empty_like(d, dtype=torch.float64)
    ops.swiglu(gate_up, out)
    reference.swiglu(gate_up.double(), exact, None)
    assert distance(out, exact) < 2 * ROUNDING
    wanted = gate_up.double()
    reference.swiglu_backward(d.double(), wanted, None)
    ops.swiglu_backward_(d, gate_up)
    assert distance(gate_up, wanted) < ROUNDING
    assert torch.equal(d, out), "SwiGLU's output is made again"


def test_rope() -> None:
    x, angle = half(33, 10 * 128 + 64), torch.rand(33, 64) * 1000
    wanted = x.double()
    reference.rope(wanted, angle.double().cos(), angle.double().sin(), 10)
    ops.rope_(x, angle.cos(), angle.sin(), 10)
    assert distance(x, wanted) < ROUNDING


def test_a_mask_is_the_same_wherever_it_is_applied() -> None:
    mask = ops.Mask(torch.randint(-(2**31), 2**31, (33,)).int(), 12345, 0.05)
    x, weight = half(33, 1500), half(1500)
    assert torch.equal(ops.dropout(x, mask), reference.dropout(x, mask))
    assert 0.04 < float((ops.dropout(x, mask) == 0).float().mean()) < 0.06
    out, dy, total = half(33, 1500), half(33, 1500), half(33, 1500)
    assert torch.equal(ops.put(x, out, mask), ops.dropout(x, mask))
    assert torch.equal(out, x)
    r, fed = ops.rms_norm(x, weight, 1e-5, out, mask)
    assert torch.equal(fed, ops.dropout(out, mask))
    ops.rms_norm_backward_(dy, x, weight, r, total, mask)
    assert torch.equal(dy, fed)
    gate_up, d = half(33, 3000), half(33, 1500)
    fed = ops.swiglu(gate_up, out, mask)
    assert torch.equal(fed, ops.dropout(out, mask))
    ops.swiglu_backward_(d, gate_up, mask)
    assert torch.equal(d, fed)


def test_lora_backward() -> None:
    mask = ops.Mask(torch.randint(-(2**31), 2**31, (300,)).int(), 12345, 0.05)
    v, a, dx = half(300, 4144)[:, 4096:], half(48, 4144)[:, :4096], half(300, 4096)
    wanted = dx.double()
    reference.lora_backward(v.double(), a.double(), wanted, mask)
    ops.lora_backward_(v, a, dx, mask)
    assert distance(dx, wanted) < ROUNDING


def test_cross_entropy() -> None:
    logits, targets = half(33, 32_000) * 4, torch.randint(0, 32_000, (33,))
    targets[3] = ops.IGNORED
    exact = logits.double()
    losses = reference.cross_entropy(exact, targets, 0.01)
    assert distance(ops.cross_entropy_(logits, targets, 0.01), losses) < 1e-5
    assert distance(logits, exact) < ROUNDING


def test_lora_gradients_gather_in_float32() -> None:
    dy, fed, u = half(500, 3 * 1024 + 48), half(500, 4096 + 48)[:, :4096], half(500, 48)
    places = torch.stack((torch.arange(3072), torch.arange(3072) // 1024 * 16), dim=1).int()
    ours = torch.randn(48, 4096), torch.randn(3072, 16)
    theirs = [gradient.double() for gradient in ours]
    ops.gather_(dy, fed, u, *ours, places)
    reference.gather(dy.double(), fed.double(), u.double(), *theirs, places)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert distance(mine, wanted) < 1e-5


@pytest.mark.parametrize("tokens", [100, 768, 2048])
@pytest.mark.parametrize("width", [4096, 14336])
def test_a_sum_with_a_product_is_rounded_once(tokens: int, width: int) -> None:
    out, a, b = half(tokens, 4096), half(tokens, width), half(4096, width) * 0.02
    exact = out.double() + a.double() @ b.double().T
    assert distance(ops.add_product_(out, a, b.T), exact) < 1.02 * distance(exact.bfloat16(), exact)


@pytest.mark.parametrize("window", [0, 64])
@pytest.mark.parametrize("size", [128, 64])
def test_attention_stays_within_documents(window: int, size: int) -> None:
    lengths = [200, 1, 77, 122]
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    heads, shared, count = 8, 2, sum(lengths)
    qkv, do = half(count, (heads + 2 * shared) * size), half(count, heads, size)
    q, k, v = (part.view(count, -1, size) for part in qkv.split([heads * size, shared * size, shared * size], dim=1))
    exact = [t.double() for t in (q, k, v)]
    angle = torch.rand(count, size // 2) * 1000
    wanted, exact_sum = reference.attention(*exact, starts, window)
    out, log_sum = ops.attention(q, k, v, starts, max(lengths), window)
    assert distance(out, wanted) < ROUNDING
    assert distance(log_sum, exact_sum) < 1e-4
    turns = angle.cos(), angle.sin()
    ops.attention_backward_(do, q, k, v, out, log_sum, starts, max(lengths), window, *turns)
    gradients = reference.attention_backward(do.double(), *exact, wanted, exact_sum, starts, window)
    reference.put_gradients(*gradients, *exact, *(turn.double() for turn in turns))
    for one, other in zip((q, k, v), exact, strict=True):
        assert distance(one, other) < 2 * ROUNDING
