"""Tensors from a source, merged, quantised and handed on in file order, by all cores, a few megabytes at a time.

A tensor is cut into slabs of whole rows. Each slab is one task of a thread pool: read its rows, add the adapter, quantise (all of it outside
the GIL). The caller takes finished slabs in order; only a few are ahead of it, so memory stays small whatever the model's size.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from papertune.export.gguf import TensorInfo
from papertune.export.quantize.kernels import quantize
from papertune.export.source import TensorSource

SLAB = 1 << 18  # values in a slab: 1 MiB of float32, 20 ms of work
AHEAD = 4  # slabs a thread that may be under way or waiting


@dataclass(frozen=True, slots=True)
class Job:
    """One tensor to write: ``heads`` is above 0 where GGUF pairs the rows of each head."""

    name: str
    info: TensorInfo
    heads: int


@dataclass(frozen=True, slots=True)
class _Slab:
    job: int
    first: int
    last: int


def stream(
    source: TensorSource, jobs: list[Job], threads: int, importance: Mapping[str, NDArray[np.float32]]
) -> Generator[tuple[int, memoryview, bool], None, None]:
    """(number of the job, bytes, whether they end the tensor) in file order. ``importance`` has column weights by GGUF name.

    Raises what the source raises.
    """
    todo = iter([slab for number, job in enumerate(jobs) for slab in _slabs(number, job)])
    with ThreadPoolExecutor(threads, thread_name_prefix="export") as pool:
        waiting: deque[tuple[_Slab, Future[NDArray[np.uint8]]]] = deque()
        try:
            while True:
                while len(waiting) < threads * AHEAD and (slab := next(todo, None)) is not None:
                    job = jobs[slab.job]
                    waiting.append((slab, pool.submit(_work, source, job, slab, importance.get(job.info.name))))
                if not waiting:
                    return
                slab, future = waiting.popleft()
                yield slab.job, future.result().data, slab.last == jobs[slab.job].info.shape[0]
        finally:
            for _, future in waiting:
                future.cancel()


def largest_slab(jobs: list[Job]) -> int:
    """Values in the largest slab of these jobs."""
    return max((slab.last - slab.first) * math.prod(job.info.shape[1:]) for job in jobs for slab in _slabs(0, job))


def _slabs(number: int, job: Job) -> Iterator[_Slab]:
    rows = job.info.shape[0]
    unit = rows // job.heads if job.heads else 1
    columns = job.info.shape[1] if len(job.info.shape) > 1 else 1
    step = rows if len(job.info.shape) < 2 else max(1, SLAB // (columns * unit)) * unit
    for first in range(0, rows, step):
        yield _Slab(number, first, min(first + step, rows))


def _work(source: TensorSource, job: Job, slab: _Slab, importance: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    info = job.info
    if len(info.shape) < 2:
        values = source.vector(job.name)[np.newaxis]
    elif job.heads:
        values = source.heads_paired(job.name, job.heads, slab.first, slab.last)
    else:
        values = source.rows(job.name, slab.first, slab.last)
    out = np.empty(values.shape[0] * info.type.row_bytes(values.shape[1]), np.uint8)
    quantize(info.type, values, out, importance)
    return out
