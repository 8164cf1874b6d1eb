"""The fast engine: a micro-batch forward and backward through frozen NF4 layers with LoRA weights, without autograd.

Sequences are packed end to end; the layers' activations are kept, offloaded or made again by ``Plan``; logits exist for some positions at a
time. The face is that of ``reference.ReferenceEngine``, and so are loss and gradients, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from papertune.base import Base
from papertune.events import OnEvent, Started, Unit, ignore
from papertune.kernels import nf4, ops
from papertune.kernels.nf4 import NF4
from papertune.train.batches import TokenSequence
from papertune.train.fast.budget import Budget, Pinned, cut
from papertune.train.fast.flat import GROUPS, FlatLora, sizes
from papertune.train.fast.host import Host, NoHostMemory, Parked
from papertune.train.fast.layer import Layer, Save, Saved
from papertune.train.fast.memory import Work
from papertune.train.fast.packing import Packed, pack
from papertune.train.fast.plan import Fate, Plan
from papertune.train.fast.projections import Group
from papertune.train.fast.shape import Shape, shape_of
from papertune.train.fast.weights import Weights
from papertune.train.model import Device

if TYPE_CHECKING:
    import numpy as np

READING = "Reading the model"  # what is said meanwhile
_PARKED = ("x", "qkv", "attended", "h", "gate_up")  # what a layer offloads: all of Saved that is as large as a layer's input


@dataclass(frozen=True, slots=True)
class Frozen:
    """The base model on the device. ``head`` is ``embedding`` where tied."""

    embedding: Tensor
    head: Tensor
    norm: Tensor
    layers: list[FrozenLayer]


@dataclass(frozen=True, slots=True)
class FrozenLayer:
    """The two norms' weights, and for each of GROUPS its matrices one under another, as one NF4 where that is possible."""

    norm1: Tensor
    norm2: Tensor
    groups: list[tuple[NF4, ...]]


def load_frozen(base: Base, device: Device, layers: int | None = None, on_event: OnEvent = ignore) -> Frozen:
    """Reads, casts and quantises tensor by tensor: at its highest, memory is that of the result and one matrix. Raises BadModel.

    ``layers`` reads only the first so many.
    """
    shape, place = shape_of(base), device.place
    count = shape.layers if layers is None else layers
    on_event(Started(READING, count, "layers"))
    weights = Weights(base, place, device.dtype)
    embedding = weights("model.embed_tokens", shape.vocabulary, shape.hidden)
    head = embedding if shape.tied else weights("lm_head", shape.vocabulary, shape.hidden)
    frozen = []
    for i in range(count):
        at = f"model.layers.{i}"
        norm1, norm2 = (weights(f"{at}.{norm}", shape.hidden) for norm in ("input_layernorm", "post_attention_layernorm"))
        matrices = {name: nf4.quantize(weights(f"{at}.{base.family.linear(name)}", *size)) for name, size in sizes(shape).items()}
        frozen.append(frozen_layer(norm1, norm2, matrices))
        on_event(Unit(i + 1))
    return Frozen(embedding, head, weights("model.norm", shape.hidden), frozen)


def frozen_layer(norm1: Tensor, norm2: Tensor, matrices: Mapping[str, NF4]) -> FrozenLayer:
    """A layer of these quantised matrices, by projection; what it holds of them lies in one block of memory."""
    groups = [nf4.stack([matrices[name] for name in names]) for names in GROUPS]
    together = iter(nf4.gathered([weight for group in groups for weight in group]))
    return FrozenLayer(norm1, norm2, [tuple(next(together) for _ in group) for group in groups])


class FastEngine:
    """``parameters`` are the LoRA weights by PEFT name, float32, and ``lora.parameter`` is all of them in one; gradients gather in ``.grad``.

    ``plan`` holds for every micro-batch (``fixed``); without it each gets the fastest plan that fits the memory free on the card at that
    moment, at most ``memory`` bytes in all (0: no limit but the card's). When that still runs out, a leaner plan is tried.
    """

    name = "fast"

    def __init__(
        self,
        base: Base,
        frozen: Frozen,
        device: Device,
        *,
        rank: int,
        alpha: float,
        dropout: float,
        targets: tuple[str, ...],
        plan: Plan | None = None,
        memory: int = 0,
    ) -> None:
        self.device = device
        self.shape: Shape = replace(shape_of(base), layers=len(frozen.layers))
        self._place = frozen.norm.device
        self.lora = FlatLora(self.shape, base.family, targets, rank, alpha / rank, self._place)
        self.parameters, self.flat = self.lora.parameters, self.lora.parameter
        self._norm, self._head = frozen.norm, frozen.head
        on_host = plan is not None and plan.host_embedding and not self.shape.tied
        self._embedding = frozen.embedding.cpu() if on_host else frozen.embedding
        self._layers = []
        for i, layer in enumerate(frozen.layers):
            groups = [Group(weights, self.lora.groups[i][j], _salt(i, j), device.dtype) for j, weights in enumerate(layer.groups)]
            self._layers.append(Layer(self.shape, layer.norm1, layer.norm2, groups, dropout))
        self._host = Host(self._place)
        self._weights: list[list[Parked]] = [[] for _ in self._layers]  # of each layer, dequantised in host memory, once they were asked for
        columns = [group.columns for group in groups]  # the same in every layer
        self.budget = Budget(self.shape, columns, self._head.element_size(), self._place, memory, dropout=dropout > 0)
        self.fixed = plan  # for every micro-batch, if not None
        self.plan = plan or Plan()  # of the last micro-batch
        self.room: int | None = None  # tokens that a micro-batch may have
        self._work = Work(0, 0, 0)  # the last micro-batch
        self._leaner = False  # memory ran out, and the next plan will need less
        self._host_full = False  # the host pinned no more, and what it has pinned is to be given back

    @torch.no_grad()
    def accumulate(self, batch: Sequence[TokenSequence], scale: float, seed: int, places: Sequence[int] = ()) -> Tensor:
        """Adds the gradient of ``scale`` × summed loss of this micro-batch; returns the summed loss in nats (not scaled, on the device).

        ``seed`` decides the dropout, so that a step repeats exactly whatever was computed before it. ``places`` are those of the sequences
        in the step (0, 1, … if not given): with one seed a step, dropout does not change with how the step is cut. Raises
        torch.OutOfMemoryError.
        """
        fresh = self._begin()
        packed = pack(batch, self.shape, self._place, seed, places)
        work = self._work = Work(len(packed), len(packed.rows), len(batch))
        self.budget.pinned = Pinned(sum(map(bool, self._weights)), self._host.pinned)
        self.plan = self.fixed or self.budget.plan(work)
        while True:
            try:
                return self._pass(packed, scale)
            except torch.OutOfMemoryError as error:
                self._host_full = isinstance(error, NoHostMemory)
                leaner = self.budget.without_host(work) if self._host_full else self.budget.leaner(self.plan, work)
                self._leaner = not self.fixed and leaner != self.plan
                if not fresh or not self._leaner:
                    raise
            # Out of the handler, whose traceback held the failed pass's tensors. What it added to the gradients goes.
            self._clear()
            self.lora.gradient.zero_()
            self.plan, self._leaner = leaner, False

    def gradients(self) -> list[Tensor]:
        """All gradients, in one; zeros where nothing was accumulated."""
        self._begin()
        return [self.lora.gradient]

    @torch.no_grad()
    def measure(self, batch: Sequence[TokenSequence]) -> Tensor:
        """The summed loss in nats without dropout and without gradients."""
        packed = pack(batch, self.shape, self._place, 0)
        self._work, self._leaner = Work(len(packed), len(packed.rows), len(batch)), False
        return self._loss(self._last_hidden(packed), packed, 0.0)[0]

    @torch.no_grad()
    def next_token(self, ids: np.ndarray) -> int:
        """The likeliest token after these."""
        last = self._last_hidden(pack([TokenSequence(ids, len(ids), 0)], self.shape, self._place, 0))[-1:]
        hidden = torch.empty_like(last)
        ops.rms_norm(last, self._norm, self.shape.eps, hidden)
        return int((hidden @ self._head.T).argmax())

    def economise(self) -> bool:
        """After memory ran out: a leaner plan from here on, else smaller micro-batches, else the embedding table in host memory. False when it
        was one sequence under the leanest plan and that is done."""
        self._stay(0)
        if not self._leaner and self._work.documents > 1:
            self.room = self._work.tokens // 2
        elif not self._leaner:
            if self.shape.tied or not self._embedding.is_cuda:
                return False
            self._embedding = self._embedding.cpu()
        self._leaner = False
        self._clear()
        return True

    def micro_batches(self, batch: Sequence[TokenSequence], _size: int) -> list[list[TokenSequence]]:
        """The sequences of one step in as few micro-batches as fit the card, in order; ``_size`` is what other engines go by.

        What fits is not asked for again when the card has more free later: another cut would round differently.
        """
        room = self.budget.capacity()
        self.room = room = min(room, self.room or room)
        return [list(batch[part]) for part in cut([len(item.ids) for item in batch], room)]

    def adapter(self) -> dict[str, np.ndarray]:
        """A copy of the LoRA weights, float32 on the CPU."""
        return {name: p.detach().cpu().numpy().copy() for name, p in self.parameters.items()}

    @torch.no_grad()
    def load_adapter(self, tensors: Mapping[str, np.ndarray]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(torch.from_numpy(tensors[name]))

    def peak_memory(self) -> int:
        """Bytes: the most the allocator has held on a GPU, resident memory on a CPU."""
        if self.device.kind == "cuda":
            return int(torch.cuda.max_memory_reserved())
        import psutil

        return int(psutil.Process().memory_info().rss)

    def _begin(self) -> bool:
        """Clears the gradients if the optimiser has stepped and dropped them; says whether it had."""
        if self.lora.attached:
            return False
        self.lora.gradient.zero_()
        self.lora.attach()
        return True

    def _last_hidden(self, packed: Packed) -> Tensor:
        """(T, H), without dropout."""
        self._stay(self.plan.dequantised)
        x = self._embed(packed)
        for layer in self._layers:
            x, _ = layer.forward(x, packed, self.plan, Save.NOTHING, train=False)
        return x

    def _embed(self, packed: Packed) -> Tensor:
        if self._embedding.device == packed.ids.device:
            return self._embedding[packed.ids]
        return self._embedding[packed.ids.cpu()].pin_memory().to(packed.ids.device, non_blocking=True)

    def _stay(self, dequantised: int) -> None:
        """The first so many layers' weights stay dequantised; their LoRA weights are made those of now."""
        for layer in self._layers[dequantised:]:
            layer.stay(False)
        for layer in self._layers[:dequantised]:
            layer.stay(True)
        self.budget.hold(min(dequantised, len(self._layers)))

    def _clear(self) -> None:
        """Gives back the memory that a pass which ended early has left; on the host only if that was what ran out."""
        self._host.abandon()
        for parked in chain.from_iterable(self._weights):
            parked.device = None
        if self._host_full:
            self._weights, self._host_full = [[] for _ in self._layers], False
            self._host.give_back()
        if self._place.type == "cuda":
            torch.cuda.empty_cache()

    def _coming(self, i: int) -> list[Parked]:
        """Layer i's weights, if they come from host memory."""
        return self._weights[i] if i in self.plan.streamed(len(self._layers)) else []

    def _lend(self, i: int) -> None:
        """Layer i uses the weights that came for it."""
        if came := [parked.take() for parked in self._coming(i) if parked.device is not None]:
            self._layers[i].lend(came)

    def _return(self, i: int) -> None:
        if self._coming(i):
            self._layers[i].stay(False)

    def _pass(self, packed: Packed, scale: float) -> Tensor:
        self._stay(self.plan.dequantised)
        for i in self.plan.streamed(len(self._layers)):
            if not self._weights[i]:
                self._weights[i] = [self._host.keep(group.weights()) for group in self._layers[i].groups]
        x, saved = self._forward(packed)
        loss, dx = self._loss(x, packed, scale)
        del x
        self._backward(dx, saved, packed)
        return loss

    def _forward(self, packed: Packed) -> tuple[Tensor, list[_Left]]:
        """The last layer is left with the weights that came for it: its backward pass is next."""
        x, saved, host = self._embed(packed), [], self._host
        last = len(self._layers) - 1
        for i in host.ahead(range(last + 1), lambda _: [], self._coming):
            self._lend(i)
            layer, left = self._layers[i], _Left(self.plan.fate(i, len(self._layers)))
            if left.fate is Fate.RECOMPUTE:
                if self.plan.park_inputs:
                    left.x_parked = host.park(f"{i}.x", x)
                else:
                    left.x = x
                x, _ = layer.forward(x, packed, self.plan, Save.NOTHING)
            else:
                x, left.saved = layer.forward(x, packed, self.plan, Save.ATTENTION if left.fate is Fate.ATTENTION else Save.COSTLY)
                if left.fate is Fate.OFFLOAD:
                    assert left.saved is not None
                    left.parked = {name: host.park(f"{i}.{name}", left.saved.take(name)) for name in _PARKED}
            if i < last:
                self._return(i)
            host.end_layer()
            saved.append(left)
        host.end_forward()
        return x, saved

    def _backward(self, dx: Tensor, saved: list[_Left], packed: Packed) -> None:
        last = len(self._layers) - 1
        for i in self._host.ahead(range(last, -1, -1), lambda i: saved[i].arrivals(), lambda i: self._coming(i) if i < last else []):
            self._lend(i)
            layer, left = self._layers[i], saved.pop()
            restored, parked = self._restored(left, layer, packed), left.x_parked
            bring = None if parked is None else partial(self._host.bring, parked)
            dx = layer.backward(dx, restored, packed, self.plan, bring)
            self._return(i)

    def _restored(self, left: _Left, layer: Layer, packed: Packed) -> Saved:
        """All that a layer's backward pass reads, brought back or made again; without x where that is parked."""
        if left.fate is Fate.RECOMPUTE:
            x = left.x if left.x_parked is None else self._host.bring(left.x_parked)
            left.x = None
            assert x is not None
            _, saved = layer.forward(x, packed, self.plan, Save.WEIGHTS)
            assert saved is not None
            if left.x_parked is not None:
                saved.x = None
            return saved
        assert left.saved is not None
        for name, parked in left.parked.items():
            setattr(left.saved, name, parked.take())
        return left.saved

    def _loss(self, x: Tensor, packed: Packed, scale: float) -> tuple[Tensor, Tensor]:
        """The summed loss, and the gradient of scale × it in ``x`` (T, H), in a buffer with the room that the last layer's backward pass asks
        for. Only positions that predict have logits, some at a time."""
        z = x[packed.rows]
        hidden = torch.empty_like(z)
        r, _ = ops.rms_norm(z, self._norm, self.shape.eps, hidden)
        losses = []
        for first in range(0, len(z), self.plan.loss_rows):
            part = slice(first, first + self.plan.loss_rows)
            logits = hidden[part] @ self._head.T
            losses.append(ops.cross_entropy_(logits, packed.targets[part], scale))
            if scale:
                torch.mm(logits, self._head, out=hidden[part])  # the hidden state has been read: its gradient takes its place
            del logits
        dx = x.new_zeros(len(x), self.shape.hidden + self._layers[-1].spare)
        if scale:
            dz = torch.zeros_like(z)
            ops.rms_norm_backward_(hidden, z, self._norm, r, dz)
            dx[:, : self.shape.hidden][packed.rows] = dz
        return torch.cat(losses).sum(), dx


class _Left:
    """What the forward pass leaves of one layer: its input, or what it saved; ``parked`` are the parts of that in host memory."""

    __slots__ = ("fate", "parked", "saved", "x", "x_parked")

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.x: Tensor | None = None
        self.x_parked: Parked | None = None
        self.saved: Saved | None = None
        self.parked: dict[str, Parked] = {}

    def arrivals(self) -> list[Parked]:
        return list(self.parked.values())


def _salt(layer: int, group: int) -> int:
    return (layer * len(GROUPS) + group + 1) * 0x9E3779B1 & 0x7FFFFFFF
