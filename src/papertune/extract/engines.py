"""Which backends read this run's files, and in which order after a failure."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from papertune.config import ExtractConfig
from papertune.device import cores, gpus
from papertune.errors import MissingLibrary, MissingWeights
from papertune.events import Notice, OnEvent
from papertune.extract.backend import Options, missing_libraries

FETCH_WEIGHTS = "docling-tools models download layout"
INSTALL_DOCLING = 'pip install "papertune[docling]"'
INSTALL_OCR = 'pip install "papertune[ocr]"'
FALLBACKS = ("fast", "pypdf", "pdfplumber")
_LAYOUT = ("docling-project--docling-layout-heron", "model.safetensors")
_LAYOUT_ONNX = ("docling-project--docling-layout-heron-onnx", "model.onnx")


@dataclass(frozen=True, slots=True)
class Engines:
    """``pdf``: the chain for a PDF, first choice first; a file that fails in one goes to the next. ``scan``: what reads a PDF in which the chain
    finds no text. ``second``: what reads one on some pages of which the first is not to be believed. ``options`` are for backends with models.
    ``no_docling``: why Docling does not take such a look, though it was wanted, and what to do."""

    pdf: tuple[str, ...]
    scan: tuple[str, ...]
    second: tuple[str, ...]
    options: Options
    epub: tuple[str, ...] = ("epub",)
    no_docling: str = ""


def choose_engines(config: ExtractConfig, on_event: OnEvent) -> Engines:
    """Says in a Notice what was chosen for the user and why. Raises MissingLibrary or MissingWeights when what was asked for is not there."""
    first, device, models = config.engine, "cpu", docling_models(config)
    looks, no_docling = set(), ""
    if first == "docling":
        device = _docling_device(config, models)
        if device == "cpu" and config.device != "cpu":
            on_event(Notice("No CUDA device was found: Docling runs on the CPU, at about a page a second.", "warning"))
    elif first == "auto":
        first = "fast"
        try:
            device = _docling_device(config, models)
            looks.add("docling")
            if device == "cpu" and config.device == "cuda":
                on_event(Notice("No CUDA device was found: Docling reads doubtful pages on the CPU, at about a page a second."))
        except (MissingLibrary, MissingWeights) as error:
            if config.device != "cpu":
                no_docling = f"{error.what} {error.remedy}"
    if missing := missing_libraries(first):
        raise MissingLibrary(f"--engine {first} needs {' and '.join(missing)}.", f"pip install {' '.join(missing)}")
    chain = [first, *(name for name in FALLBACKS if name != first and not missing_libraries(name))]
    missing = missing_libraries("ocr")
    if config.ocr == "force":
        if missing:
            raise MissingLibrary(f"--ocr force needs {' and '.join(missing)}.", INSTALL_OCR)
        chain.insert(0, "ocr")
    scan = ("ocr",) if config.ocr == "auto" and not missing else ()
    if config.engine == "auto":
        looks.update(scan)
    second = ("second-look",) if looks and chain[0] == "fast" else ()
    return Engines(tuple(chain), scan, second, Options(device, models, cores(), frozenset(looks)), no_docling=no_docling)


def docling_models(config: ExtractConfig) -> Path:
    """Where Docling's weights are: as asked, or where docling-tools puts them."""
    return config.docling_models or Path.home() / ".cache" / "docling" / "models"


def has_layout_model(models: Path) -> bool:
    return any(models.joinpath(*place).is_file() for place in (_LAYOUT, _LAYOUT_ONNX))


def runs_on_onnx(device: str, models: Path) -> bool:
    """Whether Docling's layout model runs in ONNX Runtime, without torch: on a CPU, where both that library and the model in that form are there."""
    return device == "cpu" and find_spec("onnxruntime") is not None and models.joinpath(*_LAYOUT_ONNX).is_file()


def _docling_device(config: ExtractConfig, models: Path) -> str:
    """Where Docling will run. Raises MissingLibrary or MissingWeights."""
    install = f"{INSTALL_DOCLING}, or choose --engine fast."
    if missing := missing_libraries("docling"):
        raise MissingLibrary(f"Docling needs {' and '.join(missing)}.", install)
    device = "cuda" if config.device != "cpu" and _has_cuda() else "cpu"
    if runs_on_onnx(device, models):
        return device
    if not models.joinpath(*_LAYOUT).is_file():
        what = f"Docling's layout model is not in {models}."
        raise MissingWeights(what, f"Fetch it once with: {FETCH_WEIGHTS} (or name its folder with --docling-models, or choose --engine fast).")
    if find_spec("torch") is None:
        raise MissingLibrary("Docling needs torch.", install)
    return device


def _has_cuda() -> bool:
    """Torch is asked only where there is a GPU: importing it takes seconds."""
    if not gpus() or find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
