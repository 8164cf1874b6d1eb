"""What a rehearsal promises: training compiles nothing afterwards. Opt in with ``-m gpu``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from papertune.config import SEVEN_PROJECTIONS
from papertune.train.batches import TokenSequence
from papertune.train.fast.opening import open_fast
from papertune.train.model import choose_device
from tests.kernels.test_fast_engine import PLANS, make_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")]


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_after_a_rehearsal_no_kernel_is_compiled(dropout: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    compiled: list[str] = []
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda **about: compiled.append(about["repr"]))
    base = make_model(tmp_path / "model", head_dim=32, intermediate_size=256 if dropout else 320)  # shapes that no other test has compiled for
    engine = open_fast(base, choose_device(), rank=8, alpha=16.0, dropout=dropout, targets=SEVEN_PROJECTIONS)
    assert compiled
    compiled.clear()
    passages = [TokenSequence(np.arange(length, dtype=np.int32) % 300, 3, 0) for length in (37, 64, 5)]
    for plan in PLANS.values():
        # Not what only the longest sequences ask for, nor parts that begin at an address which no 16 divides: no plan of the engine's own has any.
        engine.fixed = replace(plan, host_embedding=False, head_groups=1, loss_rows=512, mlp_rows=plan.mlp_rows // 16 * 16)
        engine.accumulate(passages, 1.0, 1)
        engine.gradients()
    engine.measure(passages)
    engine.next_token(passages[0].ids)
    assert compiled == []
