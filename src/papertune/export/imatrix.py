"""The importance matrix: for each column of a matrix, the mean square of what it is multiplied with on the user's own papers.

The quantisers weigh errors by it, so that the columns that carry more of the signal are kept more exactly. On disk it is llama.cpp's format,
a GGUF with ``NAME.in_sum2`` (sums of squares) and ``NAME.counts`` (tokens), so files pass between the two in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from papertune.errors import BadGguf, BadValue
from papertune.export.gguf import Entry, head_bytes, lay_out, read_head
from papertune.export.quantize.types import TYPES
from papertune.export.source import TensorSource
from papertune.files import writing

Importance = dict[str, NDArray[np.float32]]
_SUMS, _COUNTS = ".in_sum2", ".counts"


def collect(source: TensorSource, texts: Sequence[Sequence[int]], device: str = "cpu") -> Importance:
    """Column weights by GGUF name for every matrix of the layers; the head and the embedding have none, as with llama-imatrix."""
    import torch

    from papertune.export.forward import run_model

    sums: dict[str, torch.Tensor] = {}

    def seen(name: str, x: torch.Tensor) -> None:
        for piece in torch.split(x, 1024):
            sums[name] = sums.get(name, 0) + piece.double().pow(2).sum(dim=0)

    run_model(source, texts, seen=seen, logits=False, device=device)
    count = sum(map(len, texts))
    return {source.names[name]: (total / count).float().cpu().numpy() for name, total in sums.items()}


def write_imatrix(path: Path, importance: Mapping[str, NDArray[np.float32]], dataset: str) -> None:
    """Raises DiskFull or CannotWrite."""
    data: list[tuple[str, NDArray[np.float32]]] = []
    for name, weights in sorted(importance.items()):
        data += [(name + _SUMS, weights.reshape(1, -1)), (name + _COUNTS, np.ones((1, 1), np.float32))]
    tensors = lay_out((name, values.shape, TYPES["F32"]) for name, values in data)
    metadata = [
        Entry("general.type", "str", "imatrix"),
        Entry("imatrix.datasets", "[str]", [dataset.encode()]),
        Entry("imatrix.chunk_count", "u32", 1),
        Entry("imatrix.chunk_size", "u32", 512),
    ]
    with writing(path) as file:
        file.write(head_bytes(metadata, tensors))
        for _, values in data:
            raw = values.tobytes()
            file.write(raw.ljust(-(-len(raw) // 32) * 32, b"\0"))


def read_imatrix(path: Path, source: TensorSource) -> Importance:
    """The weights in a file of llama-imatrix or of ``write_imatrix``. Raises BadValue or BadGguf."""
    remedy = "Make it with llama-imatrix --output-format gguf, or use --imatrix auto."
    try:
        head = read_head(path)
    except BadGguf as error:
        raise BadValue(f"--imatrix {path}: {error.what}", remedy) from error
    raw = np.memmap(path, np.uint8, "r")
    values = {}
    for tensor in head.tensors:
        if tensor.type.name == "F32":
            start = head.data_start + tensor.offset
            values[tensor.name] = np.frombuffer(raw[start : start + tensor.size].tobytes(), np.float32)
    found: Importance = {}
    for ours, theirs in source.names.items():
        sums, counts = values.get(theirs + _SUMS), values.get(theirs + _COUNTS)
        if sums is None or counts is None:
            continue
        if sums.shape != (source.shape(ours)[-1],) or not np.isfinite(sums).all() or not counts[0] > 0:
            raise BadValue(f"--imatrix {path}: {theirs} does not fit this model.", remedy)
        found[theirs] = (sums / counts[0]).astype(np.float32)
    if not found:
        raise BadValue(f"--imatrix {path} holds no weights for this model.", remedy)
    return found
