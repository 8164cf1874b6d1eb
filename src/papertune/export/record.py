"""What is known of a GGUF when it is made and cannot be read from it: its SHA-256, and what the comparison with the model found.

It lies beside the file as ``NAME.gguf.json`` and is written before the file gets its name, so that no kill loses it. ``head`` and ``size``
say which file it is of: the head holds all that the file was made from, so a record of another export is told apart without reading gigabytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from papertune.files import write_text

if TYPE_CHECKING:
    from papertune.export.verify import Verdict


def record_path(gguf: Path) -> Path:
    return gguf.with_name(gguf.name + ".json")


def write_record(gguf: Path, head: bytes, size: int, sha256: str, verdict: Verdict | None) -> None:
    """``verdict`` is None when the file was not compared. Raises DiskFull or CannotWrite."""
    record = {
        "version": 1,
        "head": hashlib.sha256(head).hexdigest(),
        "size": size,
        "sha256": sha256,
        "verified": None if verdict is None else asdict(verdict),
    }
    write_text(record_path(gguf), json.dumps(record, indent=1) + "\n")
