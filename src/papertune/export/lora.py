"""The adapter alone as a GGUF, for llama.cpp's ``--lora``: a few megabytes beside a base model that is there already.

Names are the base tensors' with ``.lora_a`` and ``.lora_b``; the halves stay F32. Where GGUF pairs the rows of a projection, B's rows move with
them. Reference: llama.cpp's convert_lora_to_gguf.py. Ollama's server no longer takes adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from papertune.adapter import Adapter
from papertune.base import Base
from papertune.export.gguf import Entry, head_bytes, lay_out, padded
from papertune.export.quantize.types import TYPES
from papertune.family import key_value_heads
from papertune.files import make_folder, writing


def write_lora(path: Path, base: Base, adapter: Adapter, provenance: Mapping[str, str]) -> None:
    """Raises BadAdapter, DiskFull, CannotWrite."""
    config = base.config
    names = dict(base.family.tensors(config["num_hidden_layers"]))
    heads = dict(zip(base.family.permuted, (config["num_attention_heads"], key_value_heads(config)), strict=True))
    data: list[tuple[str, NDArray[np.float32]]] = []
    for module, (a, b) in sorted(adapter.pairs().items()):
        theirs = names[f"{module}.weight"]
        count = next((n for part, n in heads.items() if module.endswith(part)), 0)
        rows = b.reshape(count, 2, b.shape[0] // count // 2, -1).swapaxes(1, 2).reshape(b.shape) if count else b
        data += [(f"{theirs}.lora_a", a), (f"{theirs}.lora_b", rows)]
    tensors = lay_out((name, values.shape, TYPES["F32"]) for name, values in data)
    metadata = [
        Entry("general.architecture", "str", base.family.gguf_architecture),
        Entry("general.type", "str", "adapter"),
        Entry("adapter.type", "str", "lora"),
        Entry("adapter.lora.alpha", "f32", adapter.scale * adapter.rank),  # llama.cpp divides by the rank
        *(Entry(f"papertune.{key}", "str", value) for key, value in sorted(provenance.items())),
    ]
    make_folder(path.parent)
    with writing(path) as file:
        file.write(head_bytes(metadata, tensors))
        for _, values in data:
            raw = np.ascontiguousarray(values, np.float32).tobytes()
            file.write(raw.ljust(padded(len(raw)), b"\0"))
