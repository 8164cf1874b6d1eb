"""Checkpoints and the best adapter, written while training goes on.

What is to be written is first copied (tens of milliseconds for the 250 MB of a 7B adapter and its optimiser); a thread then hashes, writes
and flushes the copy, one folder after another. Nothing is copied over what is still being written, and the end of training waits for all of
it, so what is on disk is what it would be without the thread, a second later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from papertune.train import checkpoint
from papertune.train.checkpoint import LoopState

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from papertune.train.loop import Engine
    from papertune.train.optimizer import Optimizer

WriteAdapter = Callable[[Path, Mapping[str, "np.ndarray"], LoopState], None]


class Keeper:
    """``save`` and ``save_best`` return when their state is copied; ``check`` raises what went wrong with writing it (DiskFull, CannotWrite).

    ``write_adapter`` fills a folder with an adapter; ``run`` are the settings and data that a checkpoint belongs to; ``log`` is as in
    ``loop.Calls`` and told of each checkpoint when it is on disk: ``seconds`` it took, and for how many of them training was ``held`` up.
    """

    def __init__(
        self, output: Path, best: Path, engine: Engine, optimizer: Optimizer, state: LoopState, run: Mapping[str, Any], write_adapter: WriteAdapter,
        log: Callable[..., None],
    ) -> None:  # fmt: skip
        self._output, self._best, self._run, self._write_adapter, self._log = output, best, run, write_adapter, log
        self._engine, self._optimizer, self._state = engine, optimizer, state
        self._staging = Staging()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: list[Future[None]] = []
        self._copied: tuple[LoopState, dict[str, Tensor], dict[str, Any]] | None = None

    def save(self) -> None:
        began = time.monotonic()
        state, tensors, rest = self._copy()
        self._pending.append(self._thread.submit(self._write, state, tensors, rest, began, time.monotonic() - began))

    def save_best(self) -> None:
        state, tensors, _ = self._copy()
        self._pending.append(self._thread.submit(self._write_best, state, tensors))

    def check(self) -> None:
        """Raises what writing has failed with, if it has."""
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()

    def close(self) -> None:
        """Returns when everything is on disk. Raises as ``check``."""
        self._thread.shutdown(wait=True)
        self.check()

    def _copy(self) -> tuple[LoopState, dict[str, Tensor], dict[str, Any]]:
        """State, and tensors of adapter and optimiser, as they are now; a second call at the same step returns the same."""
        if self._copied is None or self._copied[0].step != self._state.step:
            while self._pending:  # the copies it writes are about to be overwritten
                self._pending.pop(0).result()
            tensors, rest = self._optimizer.state()
            adapter = {_ADAPTER + name: parameter.detach() for name, parameter in self._engine.parameters.items()}
            self._copied = replace(self._state), self._staging.copy({**adapter, **tensors}), rest
        return replace(self._state), *self._copied[1:]

    def _write(self, state: LoopState, tensors: Mapping[str, Tensor], rest: Mapping[str, Any], began: float, held: float) -> None:
        optimizer = {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith(_ADAPTER)}

        def write_adapter(folder: Path) -> None:
            self._write_adapter(folder, _adapter(tensors), state)

        place = checkpoint.write_checkpoint(self._output, state, self._run, write_adapter, optimizer, rest)
        self._log("checkpoint", state.step, folder=place.name, seconds=round(time.monotonic() - began, 3), held=round(held, 4))

    def _write_best(self, state: LoopState, tensors: Mapping[str, Tensor]) -> None:
        with checkpoint.folder_in_place_of(self._best) as beside:
            self._write_adapter(beside, _adapter(tensors), state)


_ADAPTER = "adapter "  # before the names of the adapter's tensors, to tell them from the optimiser's


def _adapter(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name.removeprefix(_ADAPTER): tensor.numpy() for name, tensor in tensors.items() if name.startswith(_ADAPTER)}


class Staging:
    """Copies of tensors in one block of host memory, pinned where they come from a GPU: made once, filled at the speed of the link."""

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The earlier copies are overwritten. Memory that tensors share, as views of one buffer or under two names, is copied once."""
        storages = {storage.data_ptr(): storage for storage in (tensor.untyped_storage() for tensor in tensors.values())}
        places, size = {}, 0
        for address, storage in storages.items():
            places[address] = size
            size += -(-storage.nbytes() // _ALIGNED) * _ALIGNED
        cuda = any(tensor.is_cuda for tensor in tensors.values())
        if len(self._block) < size:
            self._block = _host_memory(size, pinned=cuda)
        for address, storage in storages.items():
            whole = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
            self._block[places[address] : places[address] + len(whole)].copy_(whole, non_blocking=True)
        if cuda:
            torch.cuda.synchronize()
        copies = {}
        for name, tensor in tensors.items():
            first = places[tensor.untyped_storage().data_ptr()] // tensor.itemsize + tensor.storage_offset()
            copies[name] = self._block.view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), first)
        return copies


def _host_memory(size: int, *, pinned: bool) -> Tensor:
    """So many bytes; not pinned where the system does not allow that much, which makes copies slower."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
    except RuntimeError:
        return torch.empty(size, dtype=torch.uint8)


_ALIGNED = 64  # bytes: a multiple of every type's size
