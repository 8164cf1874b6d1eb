"""AdamW with 8-bit state (bitsandbytes' on a GPU, ``adam`` on a CPU), gradient clipping, and the learning rate over a run.

The rate rises in a straight line over the first 3 % of the examples (at most 400 of them) and falls along half a cosine to zero at the
last. It is a function of the share of examples seen, not of steps, so a run may go on with another batch size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from papertune.kernels.blockwise import BLOCK
from papertune.train.adam import LEAST, AdamW8bit

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
    """Turns gathered gradients into a step. ``scale`` is what losses must be multiplied by: above 1 only in float16, whose small numbers vanish.

    ``flat`` is one tensor of which all parameters are views and no part is none's, where an engine has it so: it takes one launch to
    step instead of one a matrix (448 in Mistral 7B). The state is told matrix by matrix all the same, with the same bits: it is scaled by
    blocks, and a matrix must be made of whole blocks, and large enough to have state in 8 bits, for ``flat`` to be used.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], *, half: bool, flat: torch.nn.Parameter | None = None) -> None:
        self._parameters = list(parameters.values())
        fits = all(parameter.numel() % BLOCK == 0 and parameter.numel() >= LEAST for parameter in self._parameters)
        self._flat = flat if fits else None
        self._stepped = self._parameters if self._flat is None else [self._flat]
        self._adam = _adam(self._stepped)
        self._scaler = torch.amp.GradScaler("cuda", enabled=half)

    @property
    def scale(self) -> float:
        if not self._scaler.is_enabled():
            return 1.0  # without waiting for the device
        return float(self._scaler.scale(torch.ones((), device=self._parameters[0].device)))  # it sets itself up when first asked to scale

    def clip(self) -> float:
        """Limits the gradient's norm to CLIP; returns what it was."""
        self._scaler.unscale_(self._adam)
        return float(torch.nn.utils.clip_grad_norm_(self._stepped, CLIP))

    def step(self, rate: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._scaler.step(self._adam)
        self._scaler.update()
        self.forget()

    def forget(self) -> None:
        """Drops the gradients."""
        for parameter in (*self._parameters, *self._stepped):
            parameter.grad = None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a later run needs to go on: tensors by name, and the rest as JSON. The tensors are the optimiser's own."""
        tensors, rest = {}, {}
        for i, parameter in enumerate(self._parameters):
            for key, value in self._state_of(parameter).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{i}.{key}"] = value
                else:
                    rest[f"{i}.{key}"] = value
        return tensors, {"adam": rest, "scaler": self._scaler.state_dict()}

    def load_state(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        states: dict[int, dict[str, Any]] = {}
        for name, value in [*tensors.items(), *rest["adam"].items()]:
            i, _, key = name.partition(".")
            states.setdefault(int(i), {})[key] = value.to(self._stepped[0].device) if isinstance(value, torch.Tensor) else value
        if self._flat is None:
            for number, state in states.items():
                self._adam.state[self._parameters[number]].update(state)
        elif states:
            ordered = [states[number] for number in sorted(states, key=lambda number: self._parameters[number].storage_offset())]
            for key, value in ordered[0].items():
                joined = torch.cat([state[key].flatten() for state in ordered]) if key in _PER else value
                self._adam.state[self._flat][key] = joined
        if rest["scaler"]:  # there is none in a checkpoint made in another format than float16: this one finds its scale as at the start
            self._scaler.load_state_dict(dict(rest["scaler"]))

    def _state_of(self, parameter: torch.nn.Parameter) -> dict[str, Any]:
        """bitsandbytes' state of one matrix, cut from the whole one where that is the state there is."""
        if self._flat is None:
            state: dict[str, Any] = self._adam.state.get(parameter, {})
            return state
        first, last = parameter.storage_offset(), parameter.storage_offset() + parameter.numel()
        cut = {}
        for key, value in self._adam.state.get(self._flat, {}).items():
            part = value[first // _PER[key] : last // _PER[key]] if key in _PER else value
            cut[key] = part.view(parameter.shape) if _PER.get(key) == 1 else part
        return cut


def _adam(parameters: list[torch.nn.Parameter]) -> Any:
    """With the same state on every device, so that a checkpoint of one goes on on another."""
    if not parameters[0].is_cuda:
        return AdamW8bit(parameters, lr=0.0, betas=BETAS)
    import bitsandbytes

    optimizers: Any = bitsandbytes.optim
    return optimizers.AdamW8bit(parameters, lr=0.0, betas=BETAS, weight_decay=0.0, min_8bit_size=LEAST)


BETAS = (0.9, 0.999)
_PER = {"state1": 1, "state2": 1, "absmax1": BLOCK, "absmax2": BLOCK}  # weights to an entry of the state; what is not here is common to all
