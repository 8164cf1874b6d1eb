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
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")  # a control group's limit, use and part of it that is cache
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


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
    return Machine(f"{platform.system()} {platform.machine()}", platform.python_version(), cores(), memory(), memory_free(), gpus())


def on_windows() -> bool:
    """Whether the GPU's driver is that of Windows: here, or on Linux under it (WSL2)."""
    return os.name == "nt" or "microsoft" in platform.release().lower()


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


def memory() -> int:
    """Bytes that this machine has, or this container or job of a cluster may take."""
    import psutil

    return min([psutil.virtual_memory().total, *(limit for limit, _ in memory_limits())])


def memory_free() -> int:
    """Bytes that this process may still take without swapping and within the limits of its container or job."""
    import psutil

    return max(0, min([psutil.virtual_memory().available, *(limit - used for limit, used in memory_limits())]))


def memory_limits(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[tuple[int, int]]:
    """Limit and use in bytes of each control group that holds this process and has a limit. Files in memory that could be read again are not
    counted as used. None anywhere but on Linux.

    https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html. A container may not see the groups above its own, whose files
    then lie where the topmost would.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if kinds and "memory" not in kinds.split(","):
            continue
        top = groups / "memory" if kinds else groups
        limit, use, cached = _VERSION_1 if kinds else _VERSION_2
        place = top / path.lstrip("/")
        for group in (place, *place.parents[: len(place.relative_to(top).parts)]):
            try:
                most = (group / limit).read_text().strip()
                statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                used = int((group / use).read_text()) - int(statistics.get(cached, 0))
            except OSError:
                continue
            if most.isdigit():
                found.append((int(most), used))
    return found


def disk_free(path: Path) -> int:
    """Bytes free where ``path`` is or will be."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def gib(size: float) -> str:
    """Bytes in words: "7.2 GiB"."""
    return f"{size / GIB:.1f} GiB"
