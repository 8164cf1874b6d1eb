"""The kernels compiled for cards that need not be here, at Mistral 7B's widths, by Triton and the assembler that comes with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from papertune.base import Base
from papertune.config import SEVEN_PROJECTIONS
from papertune.family import MISTRAL as FAMILY
from papertune.train.fast.engine import FastEngine
from papertune.train.fast.rehearsal import go_through, without_numbers
from papertune.train.forecast import MISTRAL
from papertune.train.model import Device

triton = pytest.importorskip("triton", reason="Triton is not installed")

# Compute capability: KiB of shared memory that a program may have (CUDA C++ Programming Guide, technical specifications per compute capability)
CARDS = {"RTX 30": (86, 99), "A100": (80, 163), "RTX 40": (89, 99), "H100": (90, 227), "RTX 50": (120, 99)}


@pytest.mark.parametrize("card", [name if name == "RTX 30" else pytest.param(name, marks=pytest.mark.slow) for name in CARDS])
def test_every_kernel_compiles_for(card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from papertune.kernels import fused, launching

    capability, shared = CARDS[card]
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    target = GPUTarget("cuda", capability, 32)
    absent = {"get_current_target": lambda: target, "get_current_device": lambda: capability, "get_current_stream": lambda _: 0}
    monkeypatch.setattr(driver, "_active", SimpleNamespace(**absent))
    fused.has_one_a_lane.cache_clear()

    device = Device("cuda", torch.bfloat16, card)
    base = Base("random", tmp_path, MISTRAL, FAMILY, ())
    engine = FastEngine(base, without_numbers(base, device), device, rank=16, alpha=32.0, dropout=0.05, targets=SEVEN_PROJECTIONS)
    with ThreadPoolExecutor(2) as pool, launching.compiled_in(pool) as asked:
        go_through(engine)
    compiled = [kernel.result() for kernel in asked]
    assert {"_dequantize", "_gather", "_put_gradients", "_cross_entropy"} < {kernel.metadata.name for kernel in compiled}
    assert len(compiled) > 20
    for kernel in compiled:
        assert kernel.asm["cubin"]
        assert kernel.metadata.shared <= shared << 10, kernel.metadata.name
