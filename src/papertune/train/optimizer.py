"""AdamW with 8-bit state, gradient clipping, and the learning rate over a run.

The rate rises in a straight line over the first 3 % of the examples (at most 400 of them) and falls along half a cosine to zero at the
last. It is a function of the share of examples seen, not of steps, so a run may go on with another batch size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP, WARM_UP_MOST = 0.03, 400
CLIP = 1.0  # largest norm of the gradient of a step


def learning_rate(highest: float, seen: int, total: int) -> float:
    """The rate of the step that begins after ``seen`` of ``total`` examples."""
    rise = max(1.0, min(WARM_UP * total, WARM_UP_MOST))
    if seen < rise:
        return highest * (seen + 1) / (rise + 1)
    return highest * 0.5 * (1 + math.cos(math.pi * (seen - rise) / max(1.0, total - rise)))


class Optimizer:
    """Turns gathered gradients into a step. ``scale`` is what losses must be multiplied by: above 1 only in float16, whose small numbers vanish."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], *, half: bool) -> None:
        import bitsandbytes

        optimizers: Any = bitsandbytes.optim
        self._parameters = list(parameters.values())
        self._adam: Any = optimizers.AdamW8bit(self._parameters, lr=0.0, betas=(0.9, 0.999), weight_decay=0.0)
        self._scaler = torch.amp.GradScaler("cuda", enabled=half)

    @property
    def scale(self) -> float:
        return float(self._scaler.scale(torch.ones((), device=self._parameters[0].device)))  # it sets itself up when first asked to scale

    def clip(self) -> float:
        """Limits the gradient's norm to CLIP; returns what it was."""
        self._scaler.unscale_(self._adam)
        return float(torch.nn.utils.clip_grad_norm_(self._parameters, CLIP))

    def step(self, rate: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._scaler.step(self._adam)
        self._scaler.update()
        self.forget()

    def forget(self) -> None:
        """Drops the gradients."""
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a later run needs to go on: tensors by name, and the rest as JSON."""
        tensors, rest = {}, {}
        for i, parameter in enumerate(self._parameters):
            for key, value in self._adam.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{i}.{key}"] = value
                else:
                    rest[f"{i}.{key}"] = value
        return tensors, {"adam": rest, "scaler": self._scaler.state_dict()}

    def load_state(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        for name, value in [*tensors.items(), *rest["adam"].items()]:
            i, _, key = name.partition(".")
            parameter = self._parameters[int(i)]
            self._adam.state[parameter][key] = value.to(parameter.device) if isinstance(value, torch.Tensor) else value
        self._scaler.load_state_dict(dict(rest["scaler"]))
