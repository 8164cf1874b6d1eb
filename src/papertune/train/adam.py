"""AdamW with its two moments in 8 bits, in plain torch: what bitsandbytes does on a GPU, for a CPU, with the same state.

A moment is stored as ``kernels.blockwise`` has it. Matrices of fewer than 4,096 numbers keep their moments in float32.

Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861; Loshchilov and Hutter 2019, arXiv 1711.05101.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from papertune.kernels.blockwise import BLOCK, decode, dynamic_map, encode

LEAST = 4096  # numbers in the smallest matrix whose moments are in 8 bits


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
    return decode(state[f"state{i}"].flatten(), state[f"absmax{i}"], state[f"qmap{i}"])


def _store(state: dict[str, Any], i: str, moment: Tensor) -> None:
    codes, scales = encode(moment, state[f"qmap{i}"])
    state[f"absmax{i}"].copy_(scales)
    state[f"state{i}"].copy_(codes.view(state[f"state{i}"].shape))
