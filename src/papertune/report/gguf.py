"""What a GGUF file says of itself, and what export recorded beside it."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from papertune.export.gguf import Head, read_head
from papertune.export.mix import MIXES
from papertune.export.record import record_path
from papertune.files import sha256_of
from papertune.report.facts import Gguf, TensorGroup

_OWN = "papertune."


def read_gguf(file: Path) -> Gguf:
    """Raises BadGguf or OSError. The SHA-256 is the recorded one where the record is of this very file; else the file is read."""
    head = read_head(file)
    record = _record(file, head)
    metadata = head.metadata
    architecture = str(metadata.get("general.architecture", ""))
    context = metadata.get(f"{architecture}.context_length", 0)
    quants = {mix.file_type: name for name, mix in MIXES.items()}
    file_type = metadata.get("general.file_type")
    return Gguf(
        file=file,
        name=str(metadata.get("general.name", file.stem)),
        quant=quants.get(file_type, "unknown") if isinstance(file_type, int) else "unknown",
        architecture=architecture,
        context=context if isinstance(context, int) else 0,
        size=file.stat().st_size,
        sha256=record.get("sha256") or sha256_of(file),
        groups=_groups(head),
        provenance={key.removeprefix(_OWN): str(value) for key, value in metadata.items() if key.startswith(_OWN)},
        verified=record.get("verified"),
    )


def _record(file: Path, head: Head) -> dict[str, Any]:
    """What export recorded, if it is of a file with this size and head: both depend on all that the file was made from."""
    try:
        record = json.loads(record_path(file).read_text(encoding="utf-8"))
        with file.open("rb") as start:
            same = record["head"] == hashlib.sha256(start.read(head.data_start)).hexdigest() and record["size"] == file.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return record if same else {}


def _groups(head: Head) -> list[TensorGroup]:
    tensors, weights, sizes = Counter[str](), Counter[str](), Counter[str]()
    for tensor in head.tensors:
        tensors[tensor.type.name] += 1
        weights[tensor.type.name] += math.prod(tensor.shape)
        sizes[tensor.type.name] += tensor.size
    return [TensorGroup(name, tensors[name], weights[name], size) for name, size in sizes.most_common()]
