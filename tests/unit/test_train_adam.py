"""AdamW on a CPU takes the steps, and keeps the state, of bitsandbytes' on a GPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from papertune.kernels.blockwise import dynamic_map  # noqa: E402
from papertune.train.adam import AdamW8bit  # noqa: E402
from papertune.train.optimizer import Optimizer  # noqa: E402


@pytest.mark.parametrize("shape", [(16, 32), (16, 300), (64, 128)])  # float32; 8 bits with a block that is not full; whole blocks
def test_it_follows_bitsandbytes(shape: tuple[int, int]) -> None:
    optim = pytest.importorskip("bitsandbytes").optim
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    ourselves = AdamW8bit([ours], lr=1e-2, betas=(0.9, 0.999))
    themselves = optim.AdamW8bit([theirs], lr=1e-2, betas=(0.9, 0.999), weight_decay=0.0)
    for step in range(6):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        ourselves.step()
        themselves.step()
    mine, other = ourselves.state[ours], themselves.state[theirs]
    assert mine.keys() == other.keys()
    assert {key: value.dtype for key, value in mine.items() if key != "step"} == {key: value.dtype for key, value in other.items() if key != "step"}
    moved = float((theirs.detach() - start).norm())
    assert float((ours - theirs).detach().norm()) < (0.01 if "qmap1" in mine else 1e-5) * moved
    if "qmap1" in mine:
        for i, signed in (("1", True), ("2", False)):
            torch.testing.assert_close(dynamic_map(signed), other[f"qmap{i}"], rtol=0, atol=0)
            torch.testing.assert_close(mine[f"absmax{i}"], other[f"absmax{i}"], rtol=0.05, atol=0)


def test_state_in_eight_bits_trains_nearly_as_float32() -> None:
    """A quadratic bowl with slopes of very different size: 300 steps end at the same place."""
    scales = torch.logspace(-2, 1, 8192)
    ends = []
    for parts in (1, 4):  # 8,192 numbers in 8 bits, or 2,048 at a time in float32
        parameters = [torch.nn.Parameter(part.clone()) for part in torch.ones(8192).chunk(parts)]
        optimizer = AdamW8bit(parameters, lr=1e-2, betas=(0.9, 0.999))
        for _ in range(300):
            for parameter, slope in zip(parameters, scales.chunk(parts), strict=True):
                parameter.grad = slope * parameter.detach()
            optimizer.step()
        ends.append(torch.cat([parameter.detach() for parameter in parameters]))
    assert float(ends[1].abs().mean()) < 0.02
    assert float((ends[0] - ends[1]).abs().mean()) < 0.02


def test_a_checkpoint_made_without_half_precision_goes_on_with_it() -> None:
    """From a CPU, or a card that computes in bfloat16, to one that has float16 alone."""
    weights = {"a": torch.nn.Parameter(torch.ones(64, 64))}
    first, second = Optimizer(weights, half=False), Optimizer(weights, half=False)
    weights["a"].grad = torch.ones(64, 64)
    first.step(1e-3)
    second._scaler = torch.amp.GradScaler("cpu")
    second.load_state(*first.state())
    assert second.scale > 1
