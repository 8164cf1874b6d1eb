"""The chunked loss is the ordinary one, and the learning rate rises and falls as documented."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from papertune.train.loss import cross_entropy_sum  # noqa: E402
from papertune.train.optimizer import learning_rate  # noqa: E402


@pytest.mark.parametrize(("positions", "width", "vocabulary", "chunk"), [(64, 32, 128, 16), (47, 31, 123, 10), (5, 8, 11, 100), (1, 3, 2, 1)])
def test_loss_and_gradient_are_those_of_the_whole_logits(positions: int, width: int, vocabulary: int, chunk: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(positions, width, dtype=torch.float64, requires_grad=True)
    head = torch.randn(vocabulary, width, dtype=torch.float64)
    targets = torch.randint(0, vocabulary, (positions,))
    wanted = torch.nn.functional.cross_entropy(hidden @ head.T, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(wanted * 0.25, hidden)
    loss = cross_entropy_sum(hidden, head, targets, chunk)
    (ours,) = torch.autograd.grad(loss * 0.25, hidden)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-6, atol=1e-5)  # added up in float32
    torch.testing.assert_close(ours, gradient, rtol=1e-5, atol=1e-6)


def test_huge_logits_do_not_overflow() -> None:
    hidden = torch.full((2, 4), 1e4, requires_grad=True)
    loss = cross_entropy_sum(hidden, torch.eye(3, 4), torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()


def test_the_rate_rises_to_its_highest_then_falls_to_nothing() -> None:
    rates = [learning_rate(2e-4, seen, 1000) for seen in range(1000)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(2e-4)
    assert top == 30
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] > 0
    assert rates[-1] < 1e-9


def test_a_long_run_warms_up_no_longer_than_400_examples() -> None:
    assert learning_rate(1.0, 400, 1_000_000) == pytest.approx(1.0)
    assert learning_rate(1.0, 399, 1_000_000) < 1.0
