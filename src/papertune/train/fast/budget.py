"""How much memory a micro-batch needs under a plan, and the fastest plan that fits.

The sum is over the very tensors that ``layer`` makes, at the four moments when most of them are alive at once: the forward pass of a layer,
the loss, and the backward pass of a layer that was kept and of one that is run again. By the time the first recomputed layer runs its
backward pass, all kept ones have finished theirs and are gone, so keeping layers costs nothing there.

Time is compared, not predicted: a recomputed layer costs its forward pass once more, one of which attention is kept that of its MLP; an
offloaded one costs what the link to the host takes longer than the layer computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from papertune.launch import launch
from papertune.train.fast.flat import GROUPS, sizes
from papertune.train.fast.plan import Fate, Plan
from papertune.train.fast.shape import Shape

SPARE = 0.04  # of what is free: the allocator's own rounding
MARGIN = 192 << 20  # bytes that are left free: products' and kernels' own workspace, and a desktop that opens a window
STEP = 128 << 20  # by which the margin grows when memory ran out all the same
ATTENTION = 2.5  # times as long as a matrix product of as many operations takes attention
KEPT = 2  # layers that are kept where all others can be offloaded without loss of time
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
    the projections' inputs are copied to have some of their numbers dropped. ``lasting``: whether all weights stay dequantised.
    """

    shape: Shape
    bytes: int
    u: tuple[int, ...]
    multiprocessors: int = 0
    dropout: bool = False
    lasting: bool = False

    @property
    def layer(self) -> int:
        """Bytes of a layer's dequantised weights."""
        return sum(replace(self, lasting=False).weights)

    @property
    def weights(self) -> list[int]:
        """Of each group, in bytes: those that come and go."""
        size = sizes(self.shape)
        if self.lasting:
            return [0] * len(GROUPS)
        return [(sum(size[n][0] for n in names) + u) * (size[names[0]][1] + u) * self.bytes for names, u in zip(GROUPS, self.u, strict=True)]

    def kept(self, tokens: int) -> int:
        """Bytes of a kept layer."""
        return self.offloaded(tokens) + self.small(tokens)

    def offloaded(self, tokens: int) -> int:
        """The part of that which goes to the host."""
        s = self.shape
        return self.bytes * tokens * (2 * s.hidden + self._qkv + s.queries + self._wide)

    def attended(self, tokens: int) -> int:
        """Bytes of a layer of which all but the MLP is kept."""
        s = self.shape
        numbers = 2 * s.hidden + self._qkv + s.queries + self.u[0] + self.u[1]
        return tokens * (self.bytes * numbers + 4 * s.heads + 4)

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
        """Bytes above what is resident: the largest of the moments below, each the tensors that are alive then."""
        s, n, tokens = self.shape, self.shape.layers, work.tokens
        if plan.dequantised:
            rest = replace(self, lasting=plan.dequantised >= n).peak(replace(plan, dequantised=0), work)
            return min(plan.dequantised, n) * self.layer + rest
        row = self.bytes * tokens
        keep = min(plan.keep, n)
        offload = min(plan.offload, n - keep)
        attention = min(plan.attention, n - keep - offload)
        again = n - keep - offload - attention
        kept, offloaded = self.kept(tokens), self.offloaded(tokens)
        inputs = 0 if plan.park_inputs else again * row * s.hidden
        waiting = offload * self.small(tokens) + inputs + attention * self.attended(tokens)
        passing = 2 * row * s.hidden if plan.park_inputs else 0  # inputs on their way to the host
        moments = [waiting + keep * kept + self._loss(plan, work)]
        if again:
            passing += self.small(tokens) + max(self._attention(tokens), self._mlp(tokens, plan.rows(tokens)))
            first = offload * self.small(tokens) + inputs
            moments += [first + passing, first + self._again(plan, work)]
        if attention:
            moments += [waiting + self._mlp(tokens, plan.rows(tokens)), waiting + self._mlp_again(plan, work)]
        if keep or offload:  # at most two offloaded layers are on the card at a time, the last of them until the kept ones are made
            forward = max(keep * kept + min(offload, 1) * offloaded, min(offload, 2) * offloaded)
            backward = max(keep * kept + (offloaded if keep == 1 and offload else 0), min(offload, 2) * offloaded)
            moments += [waiting + forward + self._keeping(tokens), waiting + backward + self._backward(work)]
        return tokens * (4 * s.head + 44) + max(moments)  # angles, and what ``Packed`` has in integers

    # Each of the following is what one moment needs beside what is saved. Numbers a token first, then bytes.

    def _loss(self, plan: Plan, work: Work) -> int:
        """The last hidden state; the predicting positions' and its normalised form; logits, or the gradients of all three."""
        h, rows = self.shape.hidden, min(plan.loss_rows, work.positions)
        logits = rows * self.shape.vocabulary
        return self.bytes * (work.tokens * h + 2 * work.positions * h + max(logits, work.tokens * self._gradient + work.positions * h))

    def _attention(self, tokens: int) -> int:
        """Forward, where nothing is saved, beside the copy of its input to which attention is added: the norm's output with queries, keys and
        values; these with attention's output; this and its copy; the output projection."""
        h, q, row, (w_qkv, w_out, *_) = self.shape.hidden, self.shape.queries, self.bytes * tokens, self.weights
        behind = q + self.u[1] + self._dropped(q)
        ahead = row * (h + self.u[0] + self._qkv + self._dropped(h)) + w_qkv
        return row * h + max(ahead, row * (self._qkv + q), row * (q + behind), row * behind + w_out)

    def _mlp(self, tokens: int, rows: int) -> int:
        """Forward, where nothing is saved, ``rows`` tokens at a time (0: all)."""
        h, f, (*_, u_wide, u_down), (*_, w_wide, w_down) = self.shape.hidden, self.shape.inner, self.u, self.weights
        narrow = f + u_down + self._dropped(f)
        if rows:
            return self.bytes * (tokens * h + rows * (self._wide + narrow)) + w_wide + w_down
        return self.bytes * tokens * h + max(
            self.bytes * tokens * (h + u_wide + self._wide + self._dropped(h)) + w_wide,
            self.bytes * tokens * (self._wide + narrow),
            self.bytes * tokens * narrow + w_down,
        )

    def _keeping(self, tokens: int) -> int:
        """Forward, beside all that the layer itself saves: y with the MLP's normalised input, or with its last input."""
        h, f, (*_, u_wide, u_down), (*_, w_wide, w_down) = self.shape.hidden, self.shape.inner, self.u, self.weights
        first, last = h + u_wide + self._dropped(h), f + u_down + self._dropped(f)
        return self.bytes * tokens * h + max(self.bytes * tokens * first + w_wide, self.bytes * tokens * last + w_down)

    def _backward(self, work: Work) -> int:
        """Backward, beside all that the layer saved: the MLP's two projections, then attention, when gate and up are gone."""
        h, f, (_, _, w_wide, w_down) = self.shape.hidden, self.shape.inner, self.weights
        row = self.bytes * work.tokens
        return row * self._gradient + max(row * f + w_down, row * h + w_wide, self._attention_backward(work, 1) - row * (self._wide + h))

    def _again(self, plan: Plan, work: Work) -> int:
        """A layer that is run again: what it saves as it goes, and its backward pass."""
        h, f, q, tokens = self.shape.hidden, self.shape.inner, self.shape.queries, work.tokens
        (_, u_out, u_wide, u_down), (w_qkv, w_out, w_wide, w_down) = self.u, self.weights
        row, rows = self.bytes * tokens, plan.rows(tokens)
        x = row * h if plan.park_inputs else 0  # else among the inputs
        first, both = (w_qkv, w_qkv + w_out) if plan.hold_weights else (0, 0)
        saved = row * (self._qkv + q + h)
        attention = x + saved + row * (q + u_out + self._dropped(q)) + first + w_out
        if rows:
            part = self._wide + f + u_down + self._dropped(f)
            mlp = saved + self.bytes * rows * part + w_wide + w_down + both
        else:
            held = w_wide + both if plan.hold_weights else 0
            wide = x + saved + row * (h + u_wide + self._wide + self._dropped(h)) + w_wide + both
            mlp = max(wide, x + saved + row * (self._wide + f + u_down + self._dropped(f)) + w_down + held)
        attention_backward = row * (self._qkv + q) + first + self._attention_backward(work, plan.head_groups)
        out_backward = row * (self._qkv + 2 * q + self._dropped(q)) + first + w_out
        qkv_backward = x + row * (self._qkv + h) + w_qkv
        return self.small(tokens) + row * self._gradient + max(attention, mlp, attention_backward, out_backward, qkv_backward)

    def _mlp_again(self, plan: Plan, work: Work) -> int:
        """Backward, beside all that was kept of attention: the MLP that is run again, then attention, when the MLP's input is gone."""
        h, f, tokens, (*_, u_wide, u_down), (_, w_out, w_wide, w_down) = self.shape.hidden, self.shape.inner, work.tokens, self.u, self.weights
        row, rows = self.bytes * tokens, plan.rows(tokens) or tokens
        part = self._wide + max(h + u_wide + self._dropped(h), f + u_down + self._dropped(f))
        out = row * (self.shape.queries + self._dropped(self.shape.queries)) + w_out
        after = max(out, self._attention_backward(work, plan.head_groups)) - row * h
        return row * self._gradient + max(w_wide + w_down + self.bytes * rows * part, after)

    def _attention_backward(self, work: Work, groups: int) -> int:
        """Gradients of attention's output and of queries, keys and values, and what flash attention is given and needs: keys and values once for
        each head of the queries, the queries' gradient in float32, of which each document has up to 128 rows more."""
        s = self.shape
        copies = -(-self.multiprocessors // (work.documents * s.heads // groups)) or 1
        spread = 2 * s.queries if s.kv_heads < s.heads else 0
        padded = work.tokens + 128 * work.documents
        gradients = self.bytes * work.tokens * (3 * s.queries + spread) + 4 * padded * (copies * s.queries + s.heads)
        return self.bytes * work.tokens * s.queries + gradients // groups

    @property
    def _gradient(self) -> int:
        """Columns of the gradient that goes from layer to layer, with the room that its first product asks for."""
        return self.shape.hidden + max(self.u[1], self.u[3])

    def _dropped(self, columns: int) -> int:
        """The copy of a projection's input with some of its numbers dropped."""
        return columns if self.dropout else 0


def choose(size: Sizes, work: Work, *, free: int, host_free: int, link: Link) -> Plan:
    """The fastest plan whose peak fits ``free`` bytes of the card and ``host_free`` of host memory; the leanest one if none fits."""
    layers, room, costs = size.shape.layers, free * (1 - SPARE), _costs(size, work, link)
    for hold in (True, False):
        plans = _fitting(Plan(hold_weights=hold), size, work, room, offload=size.offloaded(work.tokens) * layers <= host_free)
        if plans:
            best = min(plans, key=lambda plan: sum(costs[plan.fate(i, layers)] for i in range(layers)))
            if best.offload and not costs[Fate.OFFLOAD]:  # keeping more than hides the last copies gains nothing then
                kept = min(best.keep, KEPT)
                best = replace(best, keep=kept, offload=layers - kept)
            return _filled(best, size, work, room)
    plans = [Plan(loss_rows=256, hold_weights=False)]
    leaner = Plan(park_inputs=True, loss_rows=256, hold_weights=False)
    plans += [replace(leaner, mlp_rows=rows, head_groups=groups) for rows in (0, 1024) for groups in (1, groups_of(size.shape))]
    peaks = [size.peak(plan, work) for plan in plans]
    fitting = (plan for plan, peak in zip(plans, peaks, strict=True) if peak <= room)
    return next(fitting, plans[peaks.index(min(peaks))])


def _costs(size: Sizes, work: Work, link: Link) -> dict[Fate, float]:
    """Seconds that a layer's fate costs: of matrix products and attention done again, or of what a link to the host takes longer than they do."""
    weights = {name: rows * columns for name, (rows, columns) in sizes(size.shape).items()}
    product = 2 * work.tokens / link.rate
    mlp = product * (weights["gate_proj"] + weights["up_proj"])
    attention = ATTENTION * 2 * size.shape.queries * work.tokens**2 / work.documents / link.rate
    forward = product * sum(weights.values())
    again = forward - product * weights["down_proj"] + attention
    moved = size.offloaded(work.tokens) / link.host
    late = max(0.0, moved - forward) + max(0.0, moved - 2 * forward)
    return {Fate.KEEP: 0.0, Fate.OFFLOAD: late, Fate.ATTENTION: mlp, Fate.RECOMPUTE: again}


def _fitting(lean: Plan, size: Sizes, work: Work, room: float, *, offload: bool) -> list[Plan]:
    """For each way to spend memory the plan that spends the most. Of plans that take as long, earlier ones are to be preferred."""
    layers = size.shape.layers

    def most(of: Callable[[int], Plan]) -> Plan | None:
        return next((plan for count in range(layers, -1, -1) if size.peak(plan := of(count), work) <= room), None)

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


def _filled(plan: Plan, size: Sizes, work: Work, room: float) -> Plan:
    """The plan with as many layers' weights dequantised for good as there is memory left for."""
    everything = replace(plan, dequantised=size.shape.layers)
    if size.peak(everything, work) <= room:
        return everything
    return replace(plan, dequantised=max(0, int(room - size.peak(plan, work)) // size.layer))


class Budget:
    """Plans for one engine on one device. ``u``: LoRA columns of each group; ``memory``: see ``engine.FastEngine``."""

    def __init__(self, shape: Shape, u: Sequence[int], itemsize: int, device: torch.device, memory: int, *, dropout: bool) -> None:
        ordered = device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if ordered else 0
        self._size, self._device, self._memory = Sizes(shape, itemsize, tuple(u), multiprocessors, dropout), device, memory
        self.held = 0  # bytes that a plan may ask to be given back: dequantised weights
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

    def foresee(self, layers: int, resident: int, work: Work) -> tuple[Plan, int]:
        """Plan and peak in bytes of a model with so many such layers that takes ``resident`` bytes before its first token; see ``plan``."""
        size = replace(self._size, shape=replace(self._size.shape, layers=layers))
        if self._device.type != "cuda":
            return Plan(keep=layers), resident
        free = max(0, self._free() - self.held + torch.cuda.memory_allocated(self._device) - resident)
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
