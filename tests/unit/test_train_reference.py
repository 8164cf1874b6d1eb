"""The reference engine: what it computes does not hang on what was computed before."""

from __future__ import annotations

import numpy as np
import pytest

from papertune.base import open_base
from papertune.train.batches import TokenSequence
from papertune.train.model import choose_device, initial_adapter, load_model
from papertune.train.reference import ReferenceEngine

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_a_validation_changes_neither_loss_nor_gradient() -> None:
    """On processors with AVX-512 BF16 bitsandbytes' layers repack their weights when asked without gradients, and then have no backward pass."""
    base, device = open_base("tiny"), choose_device()
    engine = ReferenceEngine(load_model(base.folder, device, rank=2, alpha=4.0, dropout=0.0, targets=tuple(base.family.projections)), device)
    shapes = {name: tuple(p.shape) for name, p in engine.parameters.items()}
    random = np.random.default_rng(0)
    engine.load_adapter({name: a + random.normal(0, 0.1, a.shape).astype(np.float32) for name, a in initial_adapter(shapes, 0).items()})
    batch = [TokenSequence(random.integers(3, 1000, 24).astype(np.int32), 1, 60) for _ in range(2)]

    def step() -> tuple[float, dict[str, np.ndarray]]:
        loss = float(engine.accumulate(batch, 1.0, seed=0))
        gradients = {name: p.grad.numpy().copy() for name, p in engine.parameters.items() if p.grad is not None}
        for parameter in engine.parameters.values():
            parameter.grad = None
        return loss, gradients

    loss, before = step()
    assert float(engine.measure(batch)) == pytest.approx(loss, rel=1e-6)
    again, after = step()
    assert again == loss
    assert set(after) == set(engine.parameters)
    for name, gradient in before.items():
        assert np.array_equal(gradient, after[name]), name
