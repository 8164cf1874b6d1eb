"""The fastest plan for a micro-batch that fits the memory there is.

Time is compared, not predicted: a recomputed layer costs its forward pass once more, one of which attention is kept that of its MLP; an
offloaded one costs what the link to the host takes longer than the layer computes. A layer whose weights are streamed, or stay, need not be
dequantised twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from papertune.device import memory_free
from papertune.launch import launch
from papertune.train.fast.flat import sizes
from papertune.train.fast.memory import Sizes, Work
from papertune.train.fast.plan import Fate, Plan
from papertune.train.fast.shape import Shape

SPARE = 0.04  # of what is free: the allocator's own rounding
MARGIN = 192 << 20  # bytes that are left free: products' and kernels' own workspace, and a desktop that opens a window
STEP = 128 << 20  # by which the margin grows when memory ran out all the same
ATTENTION = 2.5  # times as long as a matrix product of as many operations takes attention
KEPT = 2  # layers that are kept where all others can be offloaded without loss of time
WORTH = 4  # layers more whose weights are ready, for which other memory than the card's is asked
HOST_SHARE = 0.5  # of the free host memory that may be pinned


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Bytes: ``peak`` on the card, ``pinned`` in host memory."""

    plan: Plan
    peak: int
    pinned: int


@dataclass(frozen=True, slots=True)
class Pinned:
    """Host memory that is pinned already and stays so: layers whose weights are there, and bytes for activations."""

    layers: int = 0
    activations: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """What this machine does in a second: ``rate`` operations of a matrix product, ``host`` bytes between card and pinned host memory."""

    rate: float
    host: float


def choose(size: Sizes, work: Work, *, free: int, host_free: int, link: Link, pinned: Pinned = Pinned()) -> Plan:
    """The fastest plan whose peak fits ``free`` bytes of the card and ``host_free`` of host memory, what is pinned among them; the leanest one if
    none fits."""
    layers, room, cost = size.shape.layers, free * (1 - SPARE), costs(size, work, link)
    for hold in (True, False):
        offload = _parked(Plan(offload=layers), size, work, pinned) + pinned.layers * size.layer_on_host <= host_free
        plans = _fitting(Plan(hold_weights=hold), size, work, room, offload=offload)
        if plans:
            plans = [min(plans, key=lambda plan: sum(cost[plan.fate(i, layers)] for i in range(layers)))]
            if offload and not cost[Fate.OFFLOAD]:  # keeping more than hides the last copies gains nothing then
                kept = min(plans[0].keep, KEPT)
                moved = replace(plans[0], keep=kept, offload=layers - kept, attention=0)
                plans = [moved] if plans[0].offload else [*plans, moved]
            plans += [_streaming(plan, size, work, host_free, link, pinned) for plan in plans]
            return _readiest([_filled(plan, size, work, room) for plan in plans if size.peak(plan, work) <= room], layers)
    plans = [Plan(loss_rows=256, hold_weights=False)]
    leaner = Plan(park_inputs=True, loss_rows=256, hold_weights=False)
    plans += [replace(leaner, mlp_rows=rows, head_groups=groups) for rows in (0, 1024) for groups in (1, groups_of(size.shape))]
    peaks = [size.peak(plan, work) for plan in plans]
    fitting = (plan for plan, peak in zip(plans, peaks, strict=True) if peak <= room)
    return next(fitting, plans[peaks.index(min(peaks))])


def costs(size: Sizes, work: Work, link: Link) -> dict[Fate, float]:
    """Seconds that a layer's fate costs: of matrix products and attention done again, or of what a link to the host takes longer than they do."""
    s, product = size.shape, 2 * work.tokens / link.rate
    matrix = product * s.inner * s.hidden  # each of the MLP's three
    attention = ATTENTION * product * s.queries * work.tokens / work.documents
    forward = _product(size, work, link)
    again = forward - matrix + attention
    moved = size.offloaded(work.tokens) / link.host
    late = max(0.0, moved - forward) + max(0.0, moved - 2 * forward)
    return {Fate.KEEP: 0.0, Fate.OFFLOAD: late, Fate.ATTENTION: 2 * matrix, Fate.RECOMPUTE: again}


def _fitting(lean: Plan, size: Sizes, work: Work, room: float, *, offload: bool) -> list[Plan]:
    """For each way to spend memory the plan that spends the most. Of plans that take as long, earlier ones are to be preferred."""
    layers = size.shape.layers

    def most(of: Callable[[int], Plan]) -> Plan | None:
        fitting = bisect_right(range(layers + 1), room, key=lambda count: size.peak(of(count), work))
        return of(fitting - 1) if fitting else None

    keeping = most(lambda count: replace(lean, keep=count))
    if keeping is not None and keeping.keep == layers:
        return [keeping]
    found = [keeping]
    if keeping is not None:
        found.append(most(lambda count: replace(keeping, attention=min(count, layers - keeping.keep))))
        attending = most(lambda count: replace(lean, attention=count))
        if attending is not None and attending.attention == layers:
            attending = most(lambda count: replace(lean, keep=count, attention=layers - count))
        found.append(attending)
    if offload:
        found.append(most(lambda count: replace(lean, keep=count, offload=layers - count)))
    return [plan for plan in found if plan is not None]


def _readiest(plans: list[Plan], layers: int) -> Plan:
    """The plan with most layers whose weights need not be dequantised, if they are clearly more than the first's."""
    most = max(plans, key=lambda plan: plan.ready(layers))
    return most if most.ready(layers) >= plans[0].ready(layers) + WORTH else plans[0]


def _filled(plan: Plan, size: Sizes, work: Work, room: float) -> Plan:
    """The plan with as many layers' weights dequantised for good as there is memory left for."""
    everything = replace(plan, dequantised=size.shape.layers, stream_every=0)
    if size.peak(everything, work) <= room:
        return everything
    return replace(plan, dequantised=max(0, int(room - size.peak(plan, work)) // size.layer))


def _streaming(plan: Plan, size: Sizes, work: Work, host_free: int, link: Link, pinned: Pinned) -> Plan:
    """The plan with the weights of as many layers streamed as the link brings unnoticed, in the backward pass beside a layer's activations, and
    as there is host memory for. Powers of 2, so that a later micro-batch's layers are among those of an earlier one, or the other way round."""
    layers = size.shape.layers
    unnoticed = _product(size, work, link) * link.host - (size.offloaded(work.tokens) if plan.offload else 0)  # bytes while a layer computes
    space = (host_free - _parked(plan, size, work, pinned)) // size.layer_on_host
    streaming = (replace(plan, stream_every=1 << i) for i in range((layers - 1).bit_length()))
    fitting = (p for p in streaming if size.layer <= p.stream_every * unnoticed and len(p.streamed(layers)) <= space)
    return next(fitting, plan)


def _parked(plan: Plan, size: Sizes, work: Work, pinned: Pinned) -> int:
    """Bytes that are pinned for activations once the plan was carried out."""
    return max(pinned.activations, size.on_host(plan, work.tokens))


def _product(size: Sizes, work: Work, link: Link) -> float:
    """Seconds that a layer's matrix products take, one way."""
    return 2 * work.tokens / link.rate * sum(rows * columns for rows, columns in sizes(size.shape).values())


class Budget:
    """Plans for one engine on one device. ``u``: LoRA columns of each group; ``memory``: see ``engine.FastEngine``."""

    def __init__(self, shape: Shape, u: Sequence[int], itemsize: int, device: torch.device, memory: int, *, dropout: bool) -> None:
        ordered = device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if ordered else 0
        self._size, self._device, self._memory = Sizes(shape, itemsize, tuple(u), multiprocessors, dropout), device, memory
        self.held = 0  # bytes that a plan may ask to be given back: dequantised weights
        self.pinned = Pinned()
        self._link: Link | None = None
        self._host = 0
        self._margin = MARGIN

    def plan(self, work: Work) -> Plan:
        """The fastest that fits what is free now; on a CPU everything is kept."""
        if self._device.type != "cuda":
            return Plan(keep=self._size.shape.layers)
        if self._link is None:
            self._link = measure_link(self._device)
            # Once: later, what is parked there would count as lost. Other processes of this machine park as much.
            self._host = int(memory_free() * HOST_SHARE / launch().here)
        return choose(self._size, work, free=self._free(), host_free=self._host, link=self._link, pinned=self.pinned)

    def peak(self, plan: Plan, work: Work) -> int:
        """Bytes this plan needs above what is resident, ``held`` not counted there."""
        return self._size.peak(plan, work)

    def hold(self, layers: int) -> None:
        """Takes note of so many layers' weights being dequantised."""
        self.held = layers * self._size.layer

    def leaner(self, failed: Plan, work: Work) -> Plan:
        """The next plan to try after one ran out of memory; the same one if there is none. Later plans start from what was learnt."""
        for _ in range(64):
            self._margin += STEP
            plan = self.plan(work)
            if self.peak(plan, work) < self.peak(failed, work):
                return plan
        return failed

    def without_host(self, work: Work) -> Plan:
        """The next plan to try when the host had no memory to pin; nor will it be asked again."""
        self._host = 0
        return self.plan(work)

    def foresee(self, layers: int, resident: int, work: Work) -> Foreseen:
        """Of a model with so many such layers that takes ``resident`` bytes before its first token; see ``plan``."""
        size = replace(self._size, shape=replace(self._size.shape, layers=layers))
        if self._device.type != "cuda":
            return Foreseen(Plan(keep=layers), resident, 0)
        free = max(0, self._free() - self.held + torch.cuda.memory_allocated(self._device) - resident)
        fitting = min(work.tokens, capacity(size, free=free))
        part = Work(fitting, min(work.positions, fitting), work.documents)
        self.plan(part)  # measures link and host, if nobody has yet
        assert self._link is not None
        plan = choose(size, part, free=free, host_free=self._host, link=self._link)
        return Foreseen(plan, resident + size.peak(plan, part), size.on_host(plan, part.tokens))

    def capacity(self) -> int:
        """Tokens that a micro-batch may have."""
        return capacity(self._size, free=self._free()) if self._device.type == "cuda" else 1 << 20

    def _free(self) -> int:
        allocated = torch.cuda.memory_allocated(self._device) - self.held
        free, _ = torch.cuda.mem_get_info(self._device)
        usable = free + torch.cuda.memory_reserved(self._device) - allocated
        if self._memory:
            usable = min(usable, self._memory - allocated)
        return max(0, usable - self._margin)


def groups_of(shape: Shape) -> int:
    """Into how many parts attention's heads can be cut: at most 4, whole keys in each."""
    return next(count for count in (4, 2, 1) if shape.kv_heads % count == 0)


def cut(lengths: Sequence[int], room: int) -> list[slice]:
    """Sequences in order as few parts of at most ``room`` tokens; one that is longer is a part of its own."""
    parts, first, used = [], 0, 0
    for i, length in enumerate(lengths):
        if i > first and used + length > room:
            parts.append(slice(first, i))
            first, used = i, 0
        used += length
    return [*parts, slice(first, len(lengths))]


def capacity(size: Sizes, *, free: int) -> int:
    """Tokens that fit at once when every layer is recomputed; at least 1."""
    low, high = 1, 1 << 20
    while low < high:
        middle = (low + high + 1) // 2
        if size.peak(Plan(hold_weights=False), Work(middle, middle, 1)) <= free * (1 - SPARE):
            low = middle
        else:
            high = middle - 1
    return low


def measure_link(device: torch.device) -> Link:
    """Times a matrix product and a copy each way on the card; a twentieth of a second."""
    a = torch.randn(4096, 4096, dtype=torch.bfloat16, device=device)
    out = torch.empty_like(a)
    host = torch.empty(a.shape, dtype=a.dtype, pin_memory=True)

    def seconds(work: int) -> float:
        times: list[float] = []
        for _ in range(3):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            if work:
                torch.mm(a, a, out=out)
            else:
                host.copy_(a, non_blocking=True)
                a.copy_(host, non_blocking=True)
            end.record()
            end.synchronize()
            times.append(float(start.elapsed_time(end)) / 1000)
        return min(times)

    return Link(2 * 4096**3 / seconds(1), 2 * a.numel() * a.element_size() / seconds(0))
