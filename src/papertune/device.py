"""What this machine has: cores, memory, disk, GPUs. Asked without importing torch, so that it is quick and cannot fail with it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
FOR_TRITON = "a C compiler and Python's headers, on Debian and Ubuntu: sudo apt install gcc python3-dev"
FOR_A_GPU = "install its CUDA build, as https://pytorch.org/get-started says"  # of a torch that was built without; on Windows pip gives that one


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA GPU as the driver sees it; memory in bytes, ``capability`` as in "8.6"."""

    name: str
    memory: int
    free: int
    driver: str
    capability: str


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory in bytes; ``cores`` are those this process may use."""

    system: str
    python: str
    cores: int
    memory: int
    free: int
    gpus: tuple[Gpu, ...]


def look() -> Machine:
    import psutil

    limit = _cgroup_limit()
    total = min(psutil.virtual_memory().total, limit) if limit else psutil.virtual_memory().total
    system = f"{platform.system()} {platform.machine()}"
    return Machine(system, platform.python_version(), cores(), total, memory_free(), gpus())


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> tuple[Gpu, ...]:
    """NVIDIA GPUs by ``nvidia-smi``; empty when there is no driver or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    fields = "name,memory.total,memory.free,driver_version,compute_cap"
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
    return tuple(Gpu(r[0], int(r[1]) << 20, int(r[2]) << 20, r[3], r[4]) for r in rows if len(r) == 5 and r[1].isdigit() and r[2].isdigit())


def memory_free() -> int:
    """Bytes that programs may still take without swapping."""
    import psutil

    available = int(psutil.virtual_memory().available)
    limit = _cgroup_limit()
    return min(available, limit) if limit else available


def disk_free(path: Path) -> int:
    """Bytes free where ``path`` is or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def gib(size: float) -> str:
    """Bytes in words: "7.2 GiB"."""
    return f"{size / GIB:.1f} GiB"


def _cgroup_limit() -> int:
    """The memory limit of this container in bytes, 0 when there is none (cgroup v2)."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
