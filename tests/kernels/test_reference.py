"""The ops' meaning: forward passes against torch's own, backward passes against autograd, in float64; NF4 against bitsandbytes, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as nn
from torch import Tensor

from papertune.kernels import nf4, ops, reference
from papertune.kernels.ops import Mask
from tests.qlora import rounded


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(function(*leaves), leaves, dy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), [(64, 256), (3, 64), (130, 192), (16, 32), (512, 1024)])
def test_weights_come_back_as_qlora_has_them(rows: int, columns: int, dtype: torch.dtype) -> None:
    weight = (torch.randn(rows, columns) * 0.05).to(dtype)
    weight[0] = 0
    out = torch.empty(rows, columns + 8, dtype=dtype)[:, :columns]
    ops.dequantize(nf4.quantize(weight), out)
    assert torch.equal(out, rounded(weight))


def test_dequantised_bits_are_those_of_bitsandbytes() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(130, 192)
    codes, state = quantize_4bit(weight.view(-1, 64), blocksize=64, compress_statistics=True, quant_type="nf4")
    steps, offset = state.state2.absmax, state.offset
    ours = nf4.NF4(130, 192, codes.flatten(), state.absmax, steps, offset.expand_as(steps), state.state2.code, state.code)
    out = torch.empty_like(weight)
    ops.dequantize(ours, out)
    assert torch.equal(out, dequantize_4bit(codes, state).view_as(out))


def test_many_blocks_are_quantised_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(64, 192)
    whole = nf4.quantize(weight)
    monkeypatch.setattr(nf4, "_AT_ONCE", 5)
    parts = nf4.quantize(weight)
    assert torch.equal(parts.codes, whole.codes)
    assert torch.equal(parts.scales, whole.scales)


def test_stacked_matrices_are_the_matrices_one_under_another() -> None:
    parts = [nf4.quantize(torch.randn(rows, 256)) for rows in (128, 64, 64)]
    (stacked,) = nf4.stack(parts)
    together, apart = torch.empty(256, 256), [torch.empty(part.rows, 256) for part in parts]
    ops.dequantize(stacked, together)
    for part, out in zip(parts, apart, strict=True):
        ops.dequantize(part, out)
    assert torch.equal(together, torch.cat(apart))


def test_gathered_weights_are_the_same_in_one_block() -> None:
    parts = [nf4.quantize(torch.randn(rows, 192)) for rows in (130, 7)]
    moved = nf4.gathered(parts)
    assert len({part.codes.untyped_storage().data_ptr() for part in moved}) == 1
    for part, other in zip(parts, moved, strict=True):
        for field in ("codes", "scales", "steps", "offsets"):
            assert torch.equal(getattr(part, field), getattr(other, field))


def test_matrices_that_share_a_step_of_scales_are_not_stacked() -> None:
    assert len(nf4.stack([nf4.quantize(torch.randn(5, 64)), nf4.quantize(torch.randn(7, 64))])) == 2


def test_weights_that_fill_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="3 x 33"):
        nf4.quantize(torch.randn(3, 33))


def test_rms_norm() -> None:
    x, weight, dy, total = double(5, 12), double(12), double(5, 12), double(5, 12)
    out = torch.empty_like(x)
    copy = torch.empty_like(x)
    r, fed = reference.rms_norm(x, weight, 1e-5, out, None, copy)
    assert torch.equal(copy, x)
    assert fed is out
    torch.testing.assert_close(out, nn.rms_norm(x, (12,), weight, 1e-5))
    (wanted,) = gradients(lambda x: nn.rms_norm(x, (12,), weight, 1e-5), [x], dy)
    before = total.clone()
    reference.rms_norm_backward(dy, x, weight, r, total, None)
    torch.testing.assert_close(total - before, wanted)
    torch.testing.assert_close(dy, out)


def test_swiglu() -> None:
    gate_up, dy, out = double(5, 24), double(5, 12), torch.empty(5, 12, dtype=torch.float64)

    def exact(x: Tensor) -> Tensor:
        return nn.silu(x[:, :12]) * x[:, 12:]

    assert reference.swiglu(gate_up, out, None) is out
    torch.testing.assert_close(out, exact(gate_up))
    (wanted,) = gradients(exact, [gate_up], dy)
    reference.swiglu_backward(dy, gate_up, None)
    torch.testing.assert_close(gate_up, wanted)
    torch.testing.assert_close(dy, out)


def test_rope_turns_pairs_by_their_angle_and_back() -> None:
    x, angle = double(5, 3 * 8 + 2), double(5, 4)
    before = x.clone()
    ops.rope_(x, angle.cos(), angle.sin(), 2)
    head = torch.complex(before[:, 8:12], before[:, 12:16]) * torch.exp(1j * angle)
    torch.testing.assert_close(x[:, 8:16], torch.cat((head.real, head.imag), dim=1))
    assert torch.equal(x[:, 16:], before[:, 16:])
    dq, dv = x[:, :16].reshape(5, 2, 8), double(5, 2, 8)
    q, k, v = double(5, 2, 8), double(5, 1, 8), double(5, 1, 8)
    reference.put_gradients(dq, dq, dv, q, k, v, angle.cos(), angle.sin())
    torch.testing.assert_close(q.flatten(1), before[:, :16])
    torch.testing.assert_close(k[:, 0], before[:, :8] + before[:, 8:16])
    torch.testing.assert_close(v[:, 0], dv.sum(1))


def test_cross_entropy() -> None:
    logits, targets = double(6, 11), torch.tensor([0, 10, 3, ops.IGNORED, 3, 7])

    def exact(x: Tensor) -> Tensor:
        return nn.cross_entropy(x, targets, reduction="none")

    losses, (wanted,) = exact(logits), gradients(lambda x: exact(x).sum() * 0.3, [logits], torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(ops.cross_entropy_(logits, targets, 0.3), losses)
    torch.testing.assert_close(logits, wanted)


@pytest.mark.parametrize("window", [0, 4])
def test_attention_is_that_of_each_document_alone(window: int) -> None:
    lengths = [7, 1, 10]
    starts = torch.tensor([0, 7, 8, 18], dtype=torch.int32)
    q, k, v, do = double(18, 4, 8), double(18, 2, 8), double(18, 2, 8), double(18, 4, 8)

    def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs = []
        for first, length in zip(starts.tolist(), lengths, strict=False):
            back = torch.arange(length)[:, None] - torch.arange(length)
            seen = (back >= 0) & (back < (window or length))
            part = (t[first : first + length].transpose(0, 1) for t in (q, k, v))
            outs.append(nn.scaled_dot_product_attention(*part, attn_mask=seen, enable_gqa=True).transpose(0, 1))
        return torch.cat(outs)

    flat, theirs = torch.zeros(18, 4), gradients(exact, [q, k, v], do)
    out, log_sum = ops.attention(q, k, v, starts, max(lengths), window)
    torch.testing.assert_close(out, exact(q, k, v))
    ops.attention_backward_(do, q, k, v, out, log_sum, starts, max(lengths), window, flat.cos(), flat.sin())
    for mine, wanted in zip((q, k, v), theirs, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_gradients_of_lora_weights_gather_in_their_places() -> None:
    dy, fed, u = double(9, 12 + 8), double(9, 5), double(9, 8)
    a, b = double(7, 5), double(6, 3)  # two projections of rank 3, of 4 and 2 rows, the second after 6 rows that are not trained
    before = a.clone(), b.clone()
    places = torch.tensor([[0, 0], [1, 0], [2, 0], [3, 0], *[[-1, 0]] * 6, [4, 3], [5, 3]]).int()
    ops.gather_(dy, fed, u, a, b, places)
    torch.testing.assert_close(a, before[0] + dy[:, 12:19].T @ fed)
    torch.testing.assert_close(b[:4], before[1][:4] + dy[:, :4].T @ u[:, :3])
    torch.testing.assert_close(b[4:], before[1][4:] + dy[:, 10:12].T @ u[:, 3:6])


def test_dropout_is_fair_and_belongs_to_token_salt_and_column() -> None:
    x, keys = torch.ones(200, 300), torch.randint(-(2**31), 2**31, (200,)).int()
    dropped = ops.dropout(x, Mask(keys, 7, 0.1))
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 1 / 0.9]))
    shares = [(dropped == 0).float().mean(dim) for dim in (0, 1)]
    assert all(float(share.min()) > 0.02 and float(share.max()) < 0.22 for share in shares)
    assert abs(float((dropped == 0).float().mean()) - 0.1) < 0.005
    assert torch.equal(ops.dropout(x[5:9], Mask(keys[5:9], 7, 0.1)), dropped[5:9])
    for apart in range(1, 100):  # neither do columns know of each other
        pairs = (dropped[:, apart:] == 0) & (dropped[:, :-apart] == 0)
        assert abs(float(pairs.float().mean()) - 0.01) < 0.003
    both = (dropped == 0) & (ops.dropout(x, Mask(keys, 8, 0.1)) == 0)
    assert abs(float(both.float().mean()) - 0.01) < 0.003  # another salt, an independent mask
    assert ops.dropout(x, None) is x


def test_what_norm_and_swiglu_pass_on_is_dropped_alike_on_the_way_back() -> None:
    mask = Mask(torch.arange(5).int(), 3, 0.4)
    x, weight, out = double(5, 12), double(12), torch.empty(5, 12, dtype=torch.float64)
    r, fed = ops.rms_norm(x, weight, 1e-5, out, mask)
    assert torch.equal(fed, ops.dropout(out, mask))
    dy = double(5, 12)
    reference.rms_norm_backward(dy, x, weight, r, double(5, 12), mask)
    torch.testing.assert_close(dy, fed)
    gate_up, d = double(5, 24), double(5, 12)
    fed = reference.swiglu(gate_up, out, mask)
    assert torch.equal(fed, ops.dropout(out, mask))
    reference.swiglu_backward(d, gate_up, mask)
    torch.testing.assert_close(d, fed)


def test_a_cpu_has_no_fast_kernels() -> None:
    assert ops.unavailable(torch.device("cpu")) == "there is no CUDA GPU"
