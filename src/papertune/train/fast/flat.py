"""All LoRA weights in one float32 buffer, their gradients in another: clearing, clipping and stepping are one launch each.

Order: layer by layer, group by group, in a group first the A's of its projections one under another, then each B. The engines' common
face names matrices as PEFT does in a saved adapter; here each is a view of the buffer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from papertune.family import Family
from papertune.train.fast.projections import Lora
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
        a, a_gradient = self._take(rank * len(trained), size[names[0]][1])
        b, b_gradient = self._take(sum(size[name][0] for name in trained), rank)
        first = 0
        for i, name in enumerate(trained):
            module = f"base_model.model.model.layers.{layer}.{family.linear(name)}"
            down, up = slice(i * rank, (i + 1) * rank), slice(first, first + size[name][0])
            self._views[f"{module}.lora_A.weight"] = (a[down], a_gradient[down])
            self._views[f"{module}.lora_B.weight"] = (b[up], b_gradient[up])
            first = up.stop
        if names not in self._places:
            self._places[names] = _places([(size[name][0], name in trained) for name in names], rank).to(self.parameter.device)
        return Lora(a, b, a_gradient, b_gradient, self._places[names], scale)

    def _take(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        part = slice(self._used, self._used + rows * columns)
        self._used = part.stop
        return self.parameter.detach()[part].view(rows, columns), self.gradient[part].view(rows, columns)


def _places(projections: list[tuple[int, bool]], rank: int) -> Tensor:
    """See ``ops.join``; of each projection its rows and whether it is trained."""
    parts, row, column = [], 0, 0
    for rows, trained in projections:
        if trained:
            parts.append(torch.stack((torch.arange(row, row + rows), torch.full((rows,), column)), dim=1))
            row, column = row + rows, column + rank
        else:
            parts.append(torch.tensor([[-1, 0]]).repeat(rows, 1))
    return torch.cat(parts).int()
