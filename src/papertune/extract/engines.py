"""Which backends read this run's files, and in which order after a failure."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Engines:
    """``pdf``: the chain for a PDF, first choice first; a file that fails in one goes to the next. ``scan``: what reads a PDF in which the chain
    finds no text. ``options`` are for backends with models."""

    pdf: tuple[str, ...]
    scan: tuple[str, ...]
    options: Options
    epub: tuple[str, ...] = ("epub",)

def choose_engines(config: ExtractConfig, on_event: OnEvent) -> Engines:
    """Says in a Notice what was chosen for the user and why. Raises MissingLibrary or MissingWeights when what was asked for is not there."""
    first, device, models = config.engine, "cpu", docling_models(config)
    if first == "auto":
        first = _automatic(config, on_event)
    if first == "docling":
        _check_docling(models)
        device = _device(config, on_event)
    if missing := missing_libraries(first):
        raise MissingLibrary(f"--engine {first} needs {' and '.join(missing)}.", f"pip install {' '.join(missing)}")
    chain = [first, *(name for name in FALLBACKS if name != first and not missing_libraries(name))]
    missing = missing_libraries("ocr")
    if config.ocr == "force":
        if missing:
            raise MissingLibrary(f"--ocr force needs {' and '.join(missing)}.", INSTALL_OCR)
        chain.insert(0, "ocr")
    scan = ("ocr",) if config.ocr == "auto" and not missing else ()
    return Engines(tuple(chain), scan, Options(device, models, cores()))


def docling_models(config: ExtractConfig) -> Path:
    """Where Docling's weights are: as asked, or where docling-tools puts them."""
    return config.docling_models or Path.home() / ".cache" / "docling" / "models"


def has_weights(models: Path) -> bool:
    return models.joinpath(*_LAYOUT).is_file()


def _automatic(config: ExtractConfig, on_event: OnEvent) -> str:
    """Docling where it is fast: its weights and a GPU are there. On a CPU it reads about one page a second, our own engine some forty."""
    if config.device == "cpu":
        return "fast"
    if missing_libraries("docling"):
        on_event(Notice(f"PDFs are read with the fast engine. For Docling's layout models: {INSTALL_DOCLING}, then {FETCH_WEIGHTS}"))
        return "fast"
    if not has_weights(docling_models(config)):
        on_event(Notice(f"PDFs are read with the fast engine. For Docling, fetch its layout models once with: {FETCH_WEIGHTS}"))
        return "fast"
    if not _has_cuda():
        on_event(Notice("No CUDA device: PDFs are read with the fast engine. --engine docling uses Docling on the CPU, at about a page a second."))
        return "fast"
    return "docling"


def _check_docling(models: Path) -> None:
    if missing := missing_libraries("docling"):
        raise MissingLibrary(f"--engine docling needs {' and '.join(missing)}.", f"{INSTALL_DOCLING}, or choose --engine fast.")
    if not has_weights(models):
        what = f"Docling's layout model is not in {models}."
        raise MissingWeights(what, f"Fetch it once with: {FETCH_WEIGHTS} (or name its folder with --docling-models, or choose --engine fast).")


def _device(config: ExtractConfig, on_event: OnEvent) -> str:
    if config.device == "cpu":
        return "cpu"
    if _has_cuda():
        return "cuda"
    on_event(Notice("No CUDA device was found: Docling runs on the CPU, at about a page a second.", "warning"))
    return "cpu"


def _has_cuda() -> bool:
    """Torch is asked only where there is a GPU: importing it takes seconds."""
    if not gpus():
        return False
    import torch

    return torch.cuda.is_available()
