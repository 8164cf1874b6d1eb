"""Is there room for an export, on the disk and in memory? Asked before the first byte is written, so that nothing is begun that cannot end."""

from __future__ import annotations

from pathlib import Path

from papertune.device import cores, disk_free, gib, memory_free
from papertune.errors import DiskFull, OutOfMemory
from papertune.export.check import available
from papertune.export.gguf import padded
from papertune.export.merged import bytes_needed
from papertune.export.source import TensorSource
from papertune.export.stream import AHEAD, Job, largest_slab
from papertune.export.texts import LENGTH, VERIFIED
from papertune.files import PART

BLOCK = 1 << 22  # values of a matrix that are in memory at once when the model is run (``forward``): 16 MiB of float32
TOKENS = 4096  # that go through the wide middle of a layer at once: 235 MB of float32 for a 7B model, twice; its matrices are read anew for the next
SPARE = 64 << 20  # bytes to leave free on the disk
_PROGRAM = 320 << 20  # what is loaded before the first tensor
_TORCH = 192 << 20


def check_all(source: TensorSource, jobs: list[Job], gguf: Path, *, merged: Path | None, weighing: int, verify: bool) -> None:
    """Raises DiskFull or OutOfMemory when the GGUF, and the merged folder if there will be one, do not fit.

    ``weighing`` is on how many tokens the model will be run for an importance matrix.
    """
    size = sum(padded(job.info.size) for job in jobs)
    there = gguf.exists() and gguf.stat().st_size >= size
    left = 0 if there else size - already(gguf)
    if merged is not None:
        need(merged, bytes_needed(source) + (left if _disk_of(merged) == _disk_of(gguf) else 0), "the merged model")
    if not there:  # else perhaps this very export stands, which is found out later; and checked then, if it does not
        check(source, jobs, gguf, size, weighing=weighing, verify=verify)


def check(source: TensorSource, jobs: list[Job], gguf: Path, size: int, *, verify: bool, weighing: int = 0) -> None:
    """As ``check_all``, for a GGUF of ``size`` bytes alone."""
    need(gguf, size - already(gguf), "the GGUF file")
    memory = memory_needed(source, jobs, cores(), weighing=weighing, verify=verify and available())
    if memory > (free := memory_free()):
        remedy = "Close other programs" + (", or leave the verification away: --no-verify." if verify else ".")
        raise OutOfMemory(f"The export needs {gib(memory)} of memory; {gib(free)} are free.", remedy)


def memory_needed(source: TensorSource, jobs: list[Job], threads: int, *, weighing: int, verify: bool) -> int:
    """Bytes that an export takes at its peak, somewhat more than was measured (docs/experiments.md): the program, the adapter, and the larger of
    the slabs at work and the model run on its texts, and their logits for verification. What llama.cpp maps of the file is not counted: few of
    its pages are there at once (``pages``), and where they all are, the system takes them back."""
    hidden, inner = source.base.config["hidden_size"], source.base.config["intermediate_size"]
    slabs = threads * (16 + 2 * AHEAD) * largest_slab(jobs) + (16 * hidden * inner if source.nf4 else 0)
    verified = VERIFIED * LENGTH if verify else 0
    tokens = max(weighing, verified)
    run = _TORCH + 12 * BLOCK + 28 * tokens * hidden + 8 * min(tokens, TOKENS) * inner + 4 * verified * source.base.config["vocab_size"]
    return _PROGRAM + source.adapter_bytes + max(slabs, run if tokens else 0)


def need(path: Path, size: int, what: str) -> None:
    """Raises DiskFull when ``size`` bytes do not fit where ``path`` will be."""
    free = disk_free(path)
    if free < size + SPARE:
        raise DiskFull(f"{what[0].upper()}{what[1:]} at {path} needs {gib(size)}; {gib(free)} are free.", "Free some space or choose another disk.")


def already(gguf: Path) -> int:
    """Bytes that an earlier run left to go on from."""
    part = gguf.with_name(gguf.name + PART)
    return part.stat().st_size if part.exists() else 0


def _disk_of(path: Path) -> int:
    """The number of the disk where ``path`` is or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path.stat().st_dev
