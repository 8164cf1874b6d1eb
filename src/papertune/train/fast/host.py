"""Tensors in pinned host memory, moved beside the computation on two streams, one each way: activations that are parked there between the
forward and the backward pass, and weights that are kept there for good.

Out: ``park`` copies a tensor after the work that makes it; its device memory must not be used again before the copy is done, so the
tensor is held until its event has passed, and at most ``AHEAD`` layers of such tensors are held (the host waits for the oldest). Back:
``call`` begins to bring tensors while a layer computes; ``wait`` makes the computing stream wait for them. ``ahead`` does both for a pass.

Holding tensors by events and not by ``Tensor.record_stream``: the allocator cannot reuse recorded memory until it happens to ask, and with
it reserved memory grew from 5.4 to 13.5 GiB in a 7B model.

Without a GPU a parked tensor is simply kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

AHEAD = 1  # layers whose copies may be under way


@dataclass(slots=True)
class Parked:
    """``host`` holds the numbers; ``device`` is there from when it is called back until it is taken."""

    host: Tensor
    device: Tensor | None = None
    arrived: torch.cuda.Event | None = None

    def take(self) -> Tensor:
        """What came back, which is then no longer held here."""
        tensor, self.device = self.device, None
        assert tensor is not None
        return tensor


def pinned_size(size: int) -> int:
    """Bytes that torch pins for so many: a power of two."""
    return 1 << (size - 1).bit_length()


class NoHostMemory(torch.OutOfMemoryError):
    """The host cannot pin more memory."""


class Host:
    """Parks tensors by slot: a slot's pinned memory is used again by every step."""

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._outward, self._back = (torch.cuda.Stream(device) if cuda else None for _ in range(2))  # type: ignore[no-untyped-call]
        self._device = device
        self._pinned: dict[str, Tensor] = {}
        self._held: list[Tensor] = []
        self._leaving: deque[tuple[torch.cuda.Event, list[Tensor]]] = deque()

    @property
    def pinned(self) -> int:
        """Bytes pinned for what is parked."""
        return sum(pinned_size(slot.nbytes) for slot in self._pinned.values())

    def park(self, slot: str, tensor: Tensor) -> Parked:
        """``slot`` names the memory: one tensor at a time may be parked in it. Raises NoHostMemory."""
        if self._outward is None:
            return Parked(tensor)
        host = self._pinned.get(slot)
        if host is None or host.numel() < tensor.numel():
            host = self._pinned[slot] = _pin(tensor.numel(), tensor.dtype)
        host = host[: tensor.numel()].view(tensor.shape)
        self._held.append(tensor)
        self._outward.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._outward):
            host.copy_(tensor, non_blocking=True)
        return Parked(host)

    def keep(self, tensor: Tensor) -> Parked:
        """A copy for good. Raises NoHostMemory."""
        return Parked(tensor if self._outward is None else _pin(tensor.numel(), tensor.dtype).view(tensor.shape).copy_(tensor))

    def abandon(self) -> None:
        """A pass ended early: waits for what is on its way, and nothing is held any more."""
        for stream in (self._outward, self._back):
            if stream is not None:
                stream.synchronize()
        self._leaving.clear()
        self._held.clear()

    def give_back(self) -> None:
        """Frees all pinned memory that nothing uses, slots included: of what a system lets a process pin, others need some too."""
        self._pinned.clear()
        if self._outward is not None:
            torch._C._host_emptyCache()  # not every torch that papertune runs on has torch.accelerator's name for it

    def end_layer(self) -> None:
        """Bounds what is held: waits for the copies of the layer before last."""
        if self._outward is None or not self._held:
            return
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._outward)
        self._leaving.append((event, self._held))
        self._held = []
        while len(self._leaving) > AHEAD:
            self._leaving.popleft()[0].synchronize()

    def end_forward(self) -> None:
        """Waits for all copies, so that nothing is held any more."""
        while self._leaving:
            self._leaving.popleft()[0].synchronize()

    def call(self, parked: list[Parked]) -> None:
        """Begins to bring these back."""
        for one in parked:
            one.device = one.host if self._back is None else torch.empty(one.host.shape, dtype=one.host.dtype, device=self._device)
        if self._back is None or not parked:
            return
        self._back.wait_stream(torch.cuda.current_stream())  # the new tensors' memory may still be in use by earlier work
        with torch.cuda.stream(self._back):
            for one in parked:
                assert one.device is not None
                one.device.copy_(one.host, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(self._back)
        for one in parked:
            one.arrived = arrived

    def bring(self, parked: Parked) -> Tensor:
        """Brings one back at once. It stays parked too: what is returned is the only copy on the device."""
        self.call([parked])
        self.wait([parked])
        return parked.take()

    def wait(self, parked: list[Parked]) -> None:
        """These were called back and may be used from here on."""
        for arrived in {one.arrived for one in parked if one.arrived is not None}:
            torch.cuda.current_stream().wait_event(arrived)

    def ahead(self, order: Sequence[int], small: Callable[[int], list[Parked]], large: Callable[[int], list[Parked]]) -> Iterator[int]:
        """``order``, of which each comes when what it needs is back. The ``small`` of one is called when the one before it comes; the ``large``
        when the one before it that has any comes: there is room for the large of two. The first of both are called at once."""
        heavy = deque(i for i in order if large(i))
        self.call(small(order[0]))
        self.call(large(heavy[0]) if heavy else [])
        for place, i in enumerate(order):
            self.wait(small(i) + large(i))
            self.call(small(order[place + 1]) if place + 1 < len(order) else [])
            if heavy and heavy[0] == i:
                heavy.popleft()
                self.call(large(heavy[0]) if heavy else [])
            yield i


def _pin(count: int, dtype: torch.dtype) -> Tensor:
    try:
        return torch.empty(count, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        raise NoHostMemory(str(error)) from error
