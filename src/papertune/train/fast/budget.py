"""How much memory a micro-batch needs under a plan, and the fastest plan that fits.

The sum is over the very tensors that ``layer`` makes, at the four moments when most of them are alive at once: the forward pass of a layer,
the loss, and the backward pass of a layer that was kept and of one that is run again. By the time the first recomputed layer runs its
backward pass, all kept ones have finished theirs and are gone, so keeping layers costs nothing there.

Time is compared, not predicted: a recomputed layer costs its forward pass once more; an offloaded one costs what the link to the host
takes longer than the layer computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from papertune.launch import launch
from papertune.train.fast.flat import GROUPS, sizes
from papertune.train.fast.plan import Plan
from papertune.train.fast.shape import Shape

SPARE = 0.04  # of what is free: the allocator's own rounding
MARGIN = 192 << 20  # bytes that are left free: products' and kernels' own workspace, and a desktop that opens a window
STEP = 128 << 20  # by which the margin grows when memory ran out all the same
HOST_SHARE = 0.5  # of the free host memory that may be pinned


@dataclass(frozen=True, slots=True)
class Link:
    """What this machine does in a second: ``rate`` operations of a matrix product, ``host`` bytes between card and pinned host memory."""

    rate: float
    host: float


@dataclass(frozen=True, slots=True)
class Work:
    """A micro-batch: all tokens, those that carry loss, and the sequences they form."""

    tokens: int
    positions: int
    documents: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of what a layer makes, in numbers of ``bytes`` each. ``u``: LoRA columns of each group; ``weights``: those dequantised.

    ``multiprocessors`` of the card matter where torch is asked for deterministic algorithms (else 0): then flash attention's backward pass
    sums the queries' gradient in several copies, as many as give each multiprocessor work, and adds these up in order. ``dropout``: whether
    the projections' inputs are copied to have some of their numbers dropped.
    """

    shape: Shape
    bytes: int
    u: tuple[int, ...]
    multiprocessors: int = 0
    dropout: bool = False

    @property
    def weights(self) -> list[int]:
        """Of each group, in bytes."""
        size = sizes(self.shape)
        return [(sum(size[n][0] for n in names) + u) * (size[names[0]][1] + u) * self.bytes for names, u in zip(GROUPS, self.u, strict=True)]

    def kept(self, tokens: int) -> int:
        """Bytes of a kept layer."""
        return self.offloaded(tokens) + self.small(tokens)

    def offloaded(self, tokens: int) -> int:
        """The part of that which goes to the host."""
        s = self.shape
        return self.bytes * tokens * (2 * s.hidden + self._qkv + s.queries + self._wide)

    def small(self, tokens: int) -> int:
        """And the part that stays."""
        return tokens * (self.bytes * sum(self.u) + 4 * self.shape.heads + 8)

    @property
    def _qkv(self) -> int:
        """Columns of queries, keys and values with the room for their backward pass; ``_wide``: of gate and up."""
        return self.shape.queries + 2 * self.shape.keys + self.u[0]

    @property
    def _wide(self) -> int:
        return 2 * self.shape.inner + self.u[2]

    def peak(self, plan: Plan, work: Work) -> int:
        """Bytes above what is resident."""
        s, b, n, tokens, positions = self.shape, self.bytes, self.shape.layers, work.tokens, work.positions
        h, f, (u_qkv, u_out, u_wide, u_down) = s.hidden, s.inner, self.u
        w_qkv, w_out, w_wide, w_down = self.weights
        row = b * tokens
        again = n - min(n, plan.keep + plan.offload)
        some = min(tokens, plan.mlp_rows or tokens)
        inputs = 0 if plan.park_inputs else again * row * h
        small = min(plan.offload, n) * self.small(tokens) + inputs
        # Two offloaded layers are on the card at a time; by then, kept ones have not been made yet, or are gone.
        held = small + max(min(plan.keep, n) * self.kept(tokens), 2 * self.offloaded(tokens) if plan.offload else 0)
        leaving = 2 * row * h if plan.park_inputs else 0
        attention = row * (h + max(h + u_qkv + self._qkv, self._qkv + 2 * s.queries + u_out, s.queries + u_out + h)) + max(w_qkv, w_out)
        dropped = f if self.dropout else 0  # the widest input is the MLP's last, when most is alive
        inner = self._wide + f + u_down + dropped
        mlp = row * (3 * h + u_wide) + b * some * inner + (w_wide + w_down if some < tokens else max(w_wide, w_down))
        loss = 2 * row * h + b * positions * 3 * h + b * min(plan.loss_rows, positions) * s.vocabulary
        # Attention backward: its gradients, and flash attention's float32 sums for the queries.
        copies = -(-self.multiprocessors // (work.documents * s.heads // plan.head_groups)) or 1
        dy = h + max(u_out, u_down)
        heads = row * (self._qkv + s.queries + dy) + (row * self._qkv + 4 * tokens * (copies * s.queries + s.heads)) // plan.head_groups
        kept_backward = max(row * (f + dropped + dy + h) + w_down, row * (dy + h) + w_wide, heads + row * h)
        alive = row * ((1 if plan.park_inputs else 2) * h + dy + self._qkv + s.queries)  # h, x; qkv, attended
        if some < tokens:
            mlp_again = b * some * (h + u_wide + inner) + w_wide + w_down
        elif plan.hold_weights:
            mlp_again = row * inner + w_wide + w_down
        else:
            mlp_again = max(row * (self._wide + h + u_wide) + w_wide, row * inner + w_down)
        narrow = w_qkv + w_out if plan.hold_weights else 0
        recomputed = inputs + max(alive + mlp_again + narrow, heads + row * h + max(w_qkv, w_out, narrow)) if again else 0
        return max(held + max(leaving + max(attention, mlp), loss, kept_backward), recomputed)


def choose(size: Sizes, work: Work, *, free: int, host_free: int, link: Link) -> Plan:
    """The fastest plan whose peak fits ``free`` bytes of the card and ``host_free`` of host memory; the leanest one if none fits."""
    layers, tokens = size.shape.layers, work.tokens
    per_layer = sum(rows * columns for rows, columns in sizes(size.shape).values())
    forward = 2 * per_layer * tokens / link.rate
    moved = size.offloaded(tokens) / link.host
    costs = {"recompute": forward, "offload": max(0.0, moved - forward) + max(0.0, moved - 2 * forward)}
    if size.offloaded(tokens) * layers > host_free:
        del costs["offload"]
    for hold in (True, False):
        best: tuple[float, Plan] | None = None
        for rest, cost in costs.items():
            if best is not None and best[0] == 0:
                break
            for keep in range(layers, -1, -1):
                plan = Plan(keep=keep, offload=layers - keep if rest == "offload" else 0, hold_weights=hold)
                if size.peak(plan, work) <= free * (1 - SPARE):
                    if best is None or (layers - keep) * cost < best[0]:
                        best = ((layers - keep) * cost, plan)
                    break
        if best is not None:
            return best[1]
    plans = [Plan(loss_rows=256, hold_weights=False)]
    leaner = Plan(park_inputs=True, loss_rows=256, hold_weights=False)
    plans += [replace(leaner, mlp_rows=rows, head_groups=groups) for rows in (0, 1024) for groups in (1, groups_of(size.shape))]
    peaks = [size.peak(plan, work) for plan in plans]
    fitting = (plan for plan, peak in zip(plans, peaks, strict=True) if peak <= free * (1 - SPARE))
    return next(fitting, plans[peaks.index(min(peaks))])


class Budget:
    """Plans for one engine on one device. ``u``: LoRA columns of each group; ``memory``: see ``engine.FastEngine``."""

    def __init__(self, shape: Shape, u: Sequence[int], itemsize: int, device: torch.device, memory: int, *, dropout: bool) -> None:
        ordered = device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if ordered else 0
        self._size, self._device, self._memory = Sizes(shape, itemsize, tuple(u), multiprocessors, dropout), device, memory
        self._link: Link | None = None
        self._host = 0
        self._margin = MARGIN

    def plan(self, work: Work) -> Plan:
        """The fastest that fits what is free now; on a CPU everything is kept."""
        if self._device.type != "cuda":
            return Plan(keep=self._size.shape.layers)
        if self._link is None:
            import psutil

            self._link = measure_link(self._device)
            # Once: later, what is parked there would count as lost. Other processes of this machine park as much.
            self._host = int(psutil.virtual_memory().available * HOST_SHARE / launch().here)
        return choose(self._size, work, free=self._free(), host_free=self._host, link=self._link)

    def peak(self, plan: Plan, work: Work) -> int:
        """Bytes this plan needs above what is resident."""
        return self._size.peak(plan, work)

    def leaner(self, failed: Plan, work: Work) -> Plan:
        """The next plan to try after one ran out of memory; the same one if there is none. Later plans start from what was learnt."""
        for _ in range(64):
            self._margin += STEP
            plan = self.plan(work)
            if self.peak(plan, work) < self.peak(failed, work):
                return plan
        return failed

    def foresee(self, layers: int, resident: int, work: Work) -> tuple[Plan, int]:
        """Plan and peak in bytes of a model with so many such layers that takes ``resident`` bytes before its first token; see ``plan``."""
        size = replace(self._size, shape=replace(self._size.shape, layers=layers))
        if self._device.type != "cuda":
            return Plan(keep=layers), resident
        free = max(0, self._free() + torch.cuda.memory_allocated(self._device) - resident)
        fitting = min(work.tokens, capacity(size, free=free))
        part = Work(fitting, min(work.positions, fitting), work.documents)
        self.plan(part)  # measures link and host, if nobody has yet
        assert self._link is not None
        plan = choose(size, part, free=free, host_free=self._host, link=self._link)
        return plan, resident + size.peak(plan, part)

    def capacity(self) -> int:
        """Tokens that a micro-batch may have."""
        return capacity(self._size, free=self._free()) if self._device.type == "cuda" else 1 << 20

    def _free(self) -> int:
        allocated = torch.cuda.memory_allocated(self._device)
        free, _ = torch.cuda.mem_get_info(self._device)
        usable = free + torch.cuda.memory_reserved(self._device) - allocated
        if self._memory:
            usable = min(usable, self._memory - allocated)
        return max(0, usable - self._margin)


def groups_of(shape: Shape) -> int:
    """Into how many parts attention's heads can be cut: at most 4, whole keys in each."""
    return next(count for count in (4, 2, 1) if shape.kv_heads % count == 0)


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
