"""What reads a file: the backends' protocol, the ways in which reading can end, and the table of built-in backends.

A backend turns one file into a ``Document``. Units and meaning, for all of them:

* boxes are (left, top, right, bottom) in points of 1/72 inch from the page's top left corner; pages count from 1;
* ``box`` is None where the backend cannot tell; ``blocks`` is empty where it looked and found nothing;
* blocks stand in reading order, text is Unicode in NFC without line breaks, hyphenation at line ends undone;
* ``source`` and ``sha256`` may be left empty: the stage fills them in.

A backend runs in a worker process of its own, so it may crash, hang or eat memory; it need not defend itself. It reports what it *understood*
to be wrong with one of the exceptions below, each of which names the state the file ends in. Any other exception counts as damage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol, cast

from papertune.extract.states import State
from papertune.records import Document


class Backend(Protocol):
    """``read`` raises CannotRead for what it understands. ``name`` stands in ``Document.engine``."""

    name: str

    def read(self, path: Path) -> Document: ...


class CannotRead(Exception):
    """Base of the ways a file can refuse to be read; never raised itself. The message says what is wrong, for the log."""

    state: ClassVar[State]


class NeedsPassword(CannotRead):
    """Encrypted, and the empty password does not open it."""

    state = "needs_password"


class Protected(CannotRead):
    """An EPUB whose text is locked by DRM."""

    state = "drm"


class NotPdf(CannotRead):
    state = "not_pdf"


class NotEpub(CannotRead):
    state = "not_epub"


class Damaged(CannotRead):
    """It is of the right kind, but broken; another backend may manage."""

    state = "damaged"


class NoTextLayer(CannotRead):
    """Read to its end, and no text is in it: scanned pages."""

    state = "no_text"


class TooLarge(CannotRead):
    """Over one of our own caps: bytes, entries, or how far it unpacks."""

    state = "limit_size"


class PartlyRead(CannotRead):
    """Some pages or chapters could not be read; ``document`` holds the others."""

    state = "partial"

    def __init__(self, message: str, document: Document) -> None:
        super().__init__(message)
        self.document = document


@dataclass(frozen=True, slots=True)
class Options:
    """What the backends with models need to know: ``device`` is "cuda" or "cpu", ``models`` the folder of Docling's weights, ``threads`` how
    many a model may use. ``looks`` names the backends there are for pages on which the fast engine cannot be believed."""

    device: str = "cpu"
    models: Path = Path()
    threads: int = 1
    looks: frozenset[str] = frozenset()


# name: (module:function that makes the backend, libraries it imports)
BACKENDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fast": ("papertune.extract.backends.fast:open_backend", ("pypdfium2",)),
    "second-look": ("papertune.extract.backends.second_look:open_backend", ("pypdfium2",)),
    "docling": ("papertune.extract.backends.docling:open_backend", ("docling", "transformers", "docling_parse")),
    "pypdf": ("papertune.extract.backends.pypdf:open_backend", ("pypdf",)),
    "pdfplumber": ("papertune.extract.backends.pdfplumber:open_backend", ("pdfplumber",)),
    "ocr": ("papertune.extract.backends.ocr:open_backend", ("rapidocr", "onnxruntime", "pypdfium2")),
    "epub": ("papertune.extract.backends.epub:open_backend", ()),
}


def missing_libraries(name: str) -> list[str]:
    """The libraries this backend needs that are not installed, without importing them."""
    return [library for library in BACKENDS[name][1] if find_spec(library) is None]


def open_backend(maker: str, options: Options) -> Backend:
    """The backend made by ``maker``, as ``module:function``. Imports its library."""
    module, _, function = maker.partition(":")
    return cast(Callable[[Options], Backend], getattr(import_module(module), function))(options)
