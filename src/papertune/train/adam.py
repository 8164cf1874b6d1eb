"""AdamW with its two moments in 8 bits, in plain torch: what bitsandbytes does on a GPU, for a CPU, with the same state.

A moment is stored as a code a number and a scale a block of 256: the value is map[code] × scale. The maps have 256 values, finer near zero:
seven decades, each of twice as many steps as the one below it. Matrices of fewer than 4,096 numbers keep their moments in float32.

Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861; Loshchilov and Hutter 2019, arXiv 1711.05101.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

BLOCK, LEAST = 256, 4096  # numbers to a scale, and in the smallest matrix whose moments are in 8 bits


class AdamW8bit(torch.optim.Optimizer):
    """Without weight decay. ``state[parameter]`` has ``step``, ``state1`` and ``state2`` and, in 8 bits, ``absmax`` and ``qmap`` of each."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float = 1e-8) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _update(parameter, parameter.grad, self.state[parameter], group["lr"], group["betas"], group["eps"])


def _update(parameter: Tensor, gradient: Tensor, state: dict[str, Any], lr: float, betas: tuple[float, float], eps: float) -> None:
    beta1, beta2 = betas
    if not state:
        state |= _empty(parameter)
    state["step"] += 1
    narrow = "absmax1" in state
    first, second = (_read(state, i) for i in "12") if narrow else (state["state1"], state["state2"])
    gradient = gradient.view(first.shape)
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    corrected = (1 - beta2 ** state["step"]) ** 0.5
    size = lr * corrected / (1 - beta1 ** state["step"])
    parameter.view(first.shape).addcdiv_(first, second.sqrt().add_(eps * corrected), value=-size)
    if narrow:
        _store(state, "1", first)
        _store(state, "2", second)


def _empty(parameter: Tensor) -> dict[str, Any]:
    if parameter.numel() < LEAST:
        return {"step": 0, "state1": torch.zeros_like(parameter), "state2": torch.zeros_like(parameter)}
    blocks = -(-parameter.numel() // BLOCK)
    state: dict[str, Any] = {"step": 0}
    for i, signed in (("1", True), ("2", False)):
        state |= {f"state{i}": torch.zeros_like(parameter, dtype=torch.uint8), f"absmax{i}": torch.zeros(blocks), f"qmap{i}": dynamic_map(signed)}
    return state


def _read(state: dict[str, Any], i: str) -> Tensor:
    """A moment as float32 (n)."""
    codes = state[f"state{i}"].flatten()
    values: Tensor = state[f"qmap{i}"][codes.int()] * state[f"absmax{i}"].repeat_interleave(BLOCK)[: len(codes)]
    return values


def _store(state: dict[str, Any], i: str, moment: Tensor) -> None:
    """Each number as the code of the nearest value in the map."""
    blocks = torch.nn.functional.pad(moment, (0, -len(moment) % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(dim=1)
    shares = blocks / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    values = state[f"qmap{i}"]
    codes = torch.bucketize(shares, (values[1:] + values[:-1]) / 2)
    state[f"absmax{i}"].copy_(scale)
    state[f"state{i}"].copy_(codes.flatten()[: len(moment)].view(state[f"state{i}"].shape))


@cache
def dynamic_map(signed: bool) -> Tensor:
    """256 values from -1 (or 0) to 1, ascending: 0, 1, and of each decade from 1e-6 up the middles of 1, 2, 4 … (unsigned: 2, 4, 8 …) equal parts."""
    values = [torch.tensor([0.0, 1.0], dtype=torch.float64)]
    for decade in range(7):
        parts = 2**decade * (1 if signed else 2)
        middles = (0.1 + 0.9 * (torch.arange(parts, dtype=torch.float64) + 0.5) / parts) * 10.0 ** (decade - 6)
        values += [middles, -middles] if signed else [middles]
    return torch.cat(values).sort().values.float()
