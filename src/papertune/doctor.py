"""What is missing for the real thing (Mistral-7B on an 8 GB GPU into Ollama), each line with its fix.

Libraries are imported in worker processes, since a broken native library may crash the process that loads it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import sysconfig
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from shutil import which

from papertune.config import ExtractConfig
from papertune.dataset.estimate import DISK, disk_in_words
from papertune.device import FOR_A_GPU, FOR_TRITON, GIB, Machine, disk_free, gib, look
from papertune.errors import BadValue
from papertune.extract.engines import FETCH_WEIGHTS, docling_models, has_layout_model
from papertune.ollama import address
from papertune.supervise import Workers

WITHOUT_CUDA = ", without CUDA"  # behind the version of such a torch
TRITON = "triton-windows" if sys.platform == "win32" else "triton"


@dataclass(frozen=True, slots=True)
class Finding:
    """``needed`` findings that are not ``good`` stop a step; the others only take something away."""

    what: str
    good: bool
    state: str
    fix: str = ""
    needed: bool = True


# module, what it is for, the fix, and whether a step fails without it
_LIBRARIES = (
    ("pypdfium2", "reading PDFs", "pip install -e .", True),
    ("torch", "training", "pip install -e .", True),
    ("transformers.models.mistral.modeling_mistral", "training", "pip uninstall torchvision; pip install -e .", True),
    ("peft", "training", "pip install -e .", True),
    ("bitsandbytes", "4-bit training on a GPU", "pip install -e .", True),
    ("gguf", "export", "pip install -e .", True),
    ("numba", "export", "pip install -e .", True),
    ("triton", "the fast training engine", f'pip install "{TRITON}<3.8"', False),  # torch 2.13 goes with 3.7
    ("docling.pipeline.standard_pdf_pipeline", "layout models for PDFs", "pip install -e '.[docling]'", False),
    ("xllamacpp", "checking the GGUF here, the demo", "pip install -e '.[demo]'", False),
)  # fmt: skip


def examine(*, show: Callable[[str], None] = print) -> None:
    """Prints a line a finding, then how many need attention."""
    missing = 0
    for finding in _findings():
        missing += not finding.good and finding.needed
        mark = "ok     " if finding.good else "MISSING" if finding.needed else "absent "
        show(f"{mark}  {finding.what}: {finding.state}" + ("" if finding.good or not finding.fix else f"  →  {finding.fix}"))
    show("Everything needed is here." if not missing else f"{missing} needed for the real thing; the fix stands behind each arrow.")


def _findings() -> Iterator[Finding]:
    machine = look()
    yield from _hardware(machine)
    yield from _libraries(machine)
    yield from _compiler(machine)
    yield from _services()


def _hardware(machine: Machine) -> Iterator[Finding]:
    yield Finding("machine", True, f"{machine.system}, {machine.cores} cores, Python {machine.python}")
    best = max(machine.gpus, key=lambda gpu: gpu.memory, default=None)
    if best is None:
        yield Finding("GPU", False, "no NVIDIA GPU answers", "training a 7B model needs one with 8 GB; --model tiny runs without")
    else:
        enough = best.memory >= 7.5 * GIB
        state = f"{best.name}, {gib(best.memory)}, {gib(best.free)} free, driver {best.driver}"
        yield Finding("GPU", enough, state, "8 GB are needed for a 7B model")
    yield Finding("memory", machine.memory >= 15 * GIB, f"{gib(machine.memory)}, {gib(machine.free)} free", "16 GB are needed to load a 7B model")
    free = disk_free(Path())
    yield Finding("disk", free >= sum(DISK.values()), f"{gib(free)} free here", disk_in_words())


def _libraries(machine: Machine) -> Iterator[Finding]:
    with Workers(_version, count=2, timeout=120, memory_limit=8 * GIB, recycle=1) as workers:
        for name, *_ in _LIBRARIES:
            workers.submit(name)
        ended = dict(workers.outcomes())
    for name, purpose, fix, needed in _LIBRARIES:
        outcome = ended[name]
        package = name.split(".")[0]
        good = outcome.status == "ok"
        state = f"{outcome.value} ({purpose})" if good else f"not usable for {purpose}: {outcome.detail.splitlines()[0]}"
        if good and machine.gpus and WITHOUT_CUDA in outcome.value:
            good, fix = False, FOR_A_GPU
        yield Finding(package, good, state, fix, needed)
        if package == "docling" and good:
            yield _layout_model()


def _layout_model() -> Finding:
    folder = docling_models(ExtractConfig())
    there = has_layout_model(folder)
    state = f"{'in' if there else 'not in'} {folder} (doubtful pages of PDFs)"
    return Finding("docling's layout model", there, state, FETCH_WEIGHTS, False)


def _compiler(machine: Machine) -> Iterator[Finding]:
    """What Triton builds its launchers with on Linux; elsewhere it brings its own."""
    if machine.gpus and sys.platform == "linux":
        compiler = os.environ.get("CC") or which("gcc") or which("clang")
        headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
        state = f"{compiler or 'none'}, {'with' if headers.exists() else 'without'} {headers}"
        yield Finding("C compiler", bool(compiler) and headers.exists(), f"{state} (the fast training engine)", f"install {FOR_TRITON}", False)


def _version(name: str) -> str:
    """Runs in a worker: imports the module and returns its package's version; of torch also whether it was built without CUDA."""
    from importlib.metadata import PackageNotFoundError, version

    logging.disable(logging.WARNING)
    module = importlib.import_module(name)
    package = name.split(".")[0]
    more = WITHOUT_CUDA if name == "torch" and module.version.cuda is None else ""
    for distribution in (package, f"{package}-slim"):
        try:
            return version(distribution) + more
        except PackageNotFoundError:
            continue
    return "installed"


def _services() -> Iterator[Finding]:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    token = bool(os.environ.get("HF_TOKEN")) or (home / "token").is_file()
    state = "a token is stored" if token else "no token"
    yield Finding("Hugging Face login", token, state, "hf auth login  (huggingface-cli login was its name before)", False)
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    weights = any(hub.glob("models--mistralai--Mistral-7B-v0.1/snapshots/*/*.safetensors"))
    state = "Mistral-7B-v0.1 is here" if weights else "not downloaded yet; the first finetune.py run fetches ≈ 14 GB"
    yield Finding("base model", weights, state, "hf download mistralai/Mistral-7B-v0.1", False)
    yield _ollama()


def _ollama() -> Finding:
    """Asks the Ollama server at OLLAMA_HOST, or on this machine, for its version."""
    try:
        url = address()
    except BadValue as error:
        return Finding("Ollama", False, error.what, error.remedy, False)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as the steps ask it
    try:
        with direct.open(f"{url}/api/version", timeout=3) as answer:
            return Finding("Ollama", True, f"version {json.load(answer)['version']} answers at {url}")
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        fix = "ollama serve" if which("ollama") else "install it from https://ollama.com, then: ollama serve"
        return Finding("Ollama", False, f"none answers at {url}", fix, False)
