"""How a Triton kernel is launched, and how it is compiled ahead of that.

For tensors of torch's meta device, which have a shape and a type and no numbers, a kernel is compiled and nothing runs
(``train.fast.rehearsal``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
from triton.runtime import KernelInterface  # type: ignore[import-not-found,import-untyped,unused-ignore]

_asked: set[Any] = set()  # kernels that are being compiled ahead of their first launch


def launch(kernel: KernelInterface, grid: tuple[int, ...], *arguments: Any, **shape: Any) -> None:
    """``kernel[grid](…)``; for tensors without numbers it is only compiled (``compiled_in``)."""
    if arguments[0].is_meta:
        future = kernel.warmup(*arguments, grid=grid, **shape)
        if hasattr(future, "result"):  # no other was compiled before
            _asked.add(future)
    else:
        kernel[grid](*arguments, **shape)


@contextmanager
def compiling(device: torch.device) -> Iterator[None]:
    """Inside, kernels for tensors without numbers are compiled in threads, each once, and loaded. Ends when all of them are."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), initializer=torch.cuda.set_device, initargs=(device,)) as pool:
        with compiled_in(pool) as asked:
            yield
        list(pool.map(lambda kernel: kernel.result().run, asked))  # the first look at ``run`` builds what launches it


@contextmanager
def compiled_in(pool: Executor) -> Iterator[set[Any]]:
    """Inside, kernels for tensors without numbers are compiled by ``pool``, each once; they gather in the set, as futures."""
    _asked.clear()
    with triton.AsyncCompileMode(pool):
        yield _asked
