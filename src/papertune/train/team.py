"""The processes of one training, one a GPU, started by torchrun: who does what, and how they stay together.

Every process has the whole model, takes a share of each step's sequences, and adds its gradient to the others'. All then take the same
step, so they hold the same weights without ever sending them. What goes wrong in one process goes wrong in all (``together``), at the
same place, so that none waits for another that has ended. The first process alone writes files and speaks.

Gradients travel by NCCL, everything else by gloo, which needs no GPU and notices at once when a process is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from papertune.errors import PapertuneError, ProcessLost
from papertune.launch import Launch, launch

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(hours=1)  # a process may wait so long for another that loads, cools down or saves


class Team:
    """One process of ``size``. Alone, everything is what it is without a team."""

    def __init__(self, place: Launch) -> None:
        self.rank, self.size = place.rank, place.size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, costs: Sequence[int]) -> list[int]:
        """Which of these pieces of work are this process's, ascending: the costliest first, each to whom has least. The same in all processes."""
        loads = [0] * self.size
        mine = []
        for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
            owner = loads.index(min(loads))
            loads[owner] += costs[i]
            if owner == self.rank:
                mine.append(i)
        return sorted(mine)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return self.total(float(flag)) > 0

    def total(self, number: float) -> float:
        """The sum over all processes, in float64; the same bits in all of them. Raises ProcessLost."""
        if self.size == 1:
            return number
        import torch
        from torch import distributed

        summed = torch.tensor(number, dtype=torch.float64)
        with _noticing():
            distributed.all_reduce(summed)
        return float(summed)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces these by their sums over all processes, in one message. Raises ProcessLost."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        whole = tensors[0] if len(tensors) == 1 else torch.cat([tensor.flatten() for tensor in tensors])
        with _noticing():
            distributed.all_reduce(whole)
        if len(tensors) > 1:
            for tensor, part in zip(tensors, torch.split(whole, [tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    @contextmanager
    def together(self) -> Iterator[None]:
        """All processes do this, or none goes on: an error of one (the first in order) is raised in all. No team call may stand inside."""
        error: PapertuneError | None = None
        try:
            yield
        except PapertuneError as raised:
            if self.size == 1:
                raise
            error = raised
        if self.any(error is not None):
            raise self._first_of(error)

    def from_first(self, action: Callable[[], T]) -> T:
        """What ``action`` returns in the first process, where alone it runs. Raises in all what it raises there."""
        got: list[Any] = [None]
        with self.together():
            if self.first:
                got[0] = action()
        if self.size > 1:
            from torch import device, distributed

            with _noticing():
                distributed.broadcast_object_list(got, src=0, device=device("cpu"))
        result: T = got[0]
        return result

    def _first_of(self, error: PapertuneError | None) -> PapertuneError:
        from torch import distributed

        errors: list[Any] = [None] * self.size
        with _noticing():
            distributed.all_gather_object(errors, error)
        found: PapertuneError = next(one for one in errors if one is not None)
        return error if error is not None and type(error) is type(found) else found


@contextmanager
def joined() -> Iterator[Team]:
    """The team that torchrun started this process for; left at the end. Each process takes the GPU of its number on its machine."""
    place = launch()
    if place.size == 1:
        yield Team(place)
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(place.local % torch.cuda.device_count())
        if distributed.is_nccl_available() and place.here <= torch.cuda.device_count():  # NCCL wants a GPU for each
            backend = "cpu:gloo,cuda:nccl"
    with _noticing():
        distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Team(place)
    except ProcessLost:
        raise  # taking leave would wait for the one that is gone
    except BaseException:
        distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()


@contextmanager
def _noticing() -> Iterator[None]:
    """Turns the failure of a message into ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            f"Another process of this training has ended ({str(error).splitlines()[0]}).",
            "Look for its message above, then run the same command again: it goes on from the last checkpoint.",
        ) from error
