"""All LoRA weights in one float32 buffer, their gradients in another: clearing, clipping and stepping are one launch each.

Order: layer by layer, group by group, in a group first the A's of its projections one under another, then each B. The engines' common
face names matrices as PEFT does in a saved adapter; here each is a view of the buffer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from papertune.family import Family
from papertune.train.fast.projections import Lora, Up
from papertune.train.fast.shape import Shape

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))  # each reads one input


def sizes(shape: Shape) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each projection."""
    return {
        "q_proj": (shape.queries, shape.hidden),
        "k_proj": (shape.keys, shape.hidden),
        "v_proj": (shape.keys, shape.hidden),
        "o_proj": (shape.hidden, shape.queries),
        "gate_proj": (shape.inner, shape.hidden),
        "up_proj": (shape.inner, shape.hidden),
        "down_proj": (shape.hidden, shape.inner),
    }


class FlatLora:
    """``parameter`` and ``gradient``: (n) float32. ``parameters``: views of them by PEFT name, sorted. ``groups[layer][i]`` belongs to GROUPS[i]."""

    def __init__(self, shape: Shape, family: Family, targets: tuple[str, ...], rank: int, scale: float, device: torch.device) -> None:
        size = sizes(shape)
        trained = [name for group in GROUPS for name in group if name in targets]
        count = shape.layers * sum(rank * sum(size[name]) for name in trained)
        self.parameter = torch.nn.Parameter(torch.zeros(count, device=device))
        self.gradient = torch.zeros(count, device=device)
        self._used = 0
        self._places: dict[tuple[str, ...], Tensor] = {}
        self._views: dict[str, tuple[Tensor, Tensor]] = {}
        self.groups = [[self._group(layer, names, targets, size, rank, scale, family) for names in GROUPS] for layer in range(shape.layers)]
        self.parameters = {name: torch.nn.Parameter(value) for name, (value, _) in sorted(self._views.items())}
        self.attach()

    def attach(self) -> None:
        """Makes the gradient buffer the gradient of every parameter, as it must be before an optimiser looks."""
        for name, parameter in self.parameters.items():
            parameter.grad = self._views[name][1]
        self.parameter.grad = self.gradient

    @property
    def attached(self) -> bool:
        return all(parameter.grad is not None for parameter in self.parameters.values())

    def _group(
        self, layer: int, names: tuple[str, ...], targets: tuple[str, ...], size: dict[str, tuple[int, int]], rank: int, scale: float, family: Family
    ) -> Lora:
        trained = [name for name in names if name in targets]
        inputs = size[names[0]][1]
        a, gradient = self._take(rank * len(trained), inputs)
        every_b = self.parameter.detach()[self._used : self._used + rank * sum(size[name][0] for name in trained)].view(-1, rank)
        ups: list[Up] = []
        first = 0
        for name in names:
            outputs = size[name][0]
            if name in targets:
                i = rank * len(ups)
                b, gradient_b = self._take(outputs, rank)
                ups.append(Up(slice(first, first + outputs), slice(i, i + rank), gradient_b))
                module = f"base_model.model.model.layers.{layer}.{family.linear(name)}"
                self._views[f"{module}.lora_A.weight"] = (a[i : i + rank], gradient[i : i + rank])
                self._views[f"{module}.lora_B.weight"] = (b, gradient_b)
            first += outputs
        if names not in self._places:
            self._places[names] = _places(first, ups, self.parameter.device)
        return Lora(a, gradient, every_b, self._places[names], tuple(ups), scale)

    def _take(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        part = slice(self._used, self._used + rows * columns)
        self._used = part.stop
        return self.parameter.detach()[part].view(rows, columns), self.gradient[part].view(rows, columns)


def _places(rows: int, ups: list[Up], device: torch.device) -> Tensor:
    """See ``ops.join``."""
    places, own = torch.tensor([[-1, 0]]).repeat(rows, 1), 0
    for up in ups:
        count = up.rows.stop - up.rows.start
        places[up.rows, 0] = torch.arange(own, own + count)
        places[up.rows, 1] = up.columns.start
        own += count
    return places.int().to(device)
