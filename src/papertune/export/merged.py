"""The merged model as a folder in the Hugging Face layout: safetensors shards, tokenizer and all, whole or absent.

The folder is built as ``….part`` beside its place. A finished shard has its final name there, so a run that was killed goes on at the next
shard; ``papertune.json``, written last, says from what the folder was made. An adapter has a file of that name too, which says other things.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from papertune.errors import BadModel, CannotWrite, from_os_error
from papertune.events import OnEvent, Started, Unit
from papertune.export.quantize.plain import as_bfloat
from papertune.export.source import TensorSource
from papertune.export.weights import DTYPES
from papertune.files import make_folder, sync_folder, write_text, writing

PROVENANCE = "papertune.json"
SHARD = 2 << 30  # bytes
_SLAB = 1 << 22  # values merged at a time
_KEPT = (
    "config.json", "generation_config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "LICENSE", "LICENSE.txt",
)  # fmt: skip
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
MERGED_FROM = "adapter.sha256"  # a key of every merged model's provenance, and of no adapter's


def read_provenance(folder: Path) -> dict[str, str]:
    """What the folder was made from; empty when it is no merged model of papertune's or not whole."""
    try:
        value = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict) or MERGED_FROM not in value or not (folder / "config.json").is_file():
        return {}
    return {str(k): str(v) for k, v in value.items()}


def check_replaceable(folder: Path, adapter: Path, base: Path) -> None:
    """Raises CannotWrite when writing the merged model to ``folder`` would lose what papertune cannot make again."""
    remedy = "Choose another folder with --merged-dir."
    if not folder.exists():
        return
    for what, kept in (("the adapter", adapter.resolve()), ("the base model", base.resolve())):
        if any(folder.samefile(place) for place in (kept, *kept.parents)):
            raise CannotWrite(f"--merged-dir {folder} holds {what}, which the merged model would replace.", remedy)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if names and not read_provenance(folder):
        raise CannotWrite(f"{folder} was not made by papertune as a merged model and will not be replaced.", remedy)
    foreign = sorted(name for name in names if name not in (PROVENANCE, *_KEPT) and not _WEIGHTS.fullmatch(name))
    if foreign:
        raise CannotWrite(f"{folder} holds {foreign[0]}, which is no part of the merged model and would be lost.", f"Move it away. {remedy}")


def plan_shards(source: TensorSource, limit: int = SHARD) -> list[list[str]]:
    """The source's tensors in order, parted so that no shard of several tensors is larger than ``limit`` bytes."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(source.names):
        size = _size(source, name)
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def bytes_needed(source: TensorSource) -> int:
    return sum(_size(source, name) for name in source.names)


def write_merged(source: TensorSource, folder: Path, provenance: Mapping[str, str], on_event: OnEvent) -> None:
    """Builds ``folder`` anew, in place of one that ``check_replaceable`` has found no harm in. Raises CannotWrite, DiskFull, BadModel."""
    part = folder.with_name(folder.name + ".part")
    if part.exists() and _read_text(part / "key") != json.dumps(dict(provenance), sort_keys=True):
        shutil.rmtree(part)
    make_folder(part)
    write_text(part / "key", json.dumps(dict(provenance), sort_keys=True))
    shards = plan_shards(source)
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors" for i in range(len(shards))]
    done = sum((part / file).exists() for file in files)
    on_event(Started("Merging", len(shards), "shards", done))
    for names, file in zip(shards, files, strict=True):
        if not (part / file).exists():
            _write_shard(source, names, part / file)
            done += 1
            on_event(Unit(done, file))
    if len(shards) > 1:
        index = {name: file for names, file in zip(shards, files, strict=True) for name in names}
        total = {"metadata": {"total_size": bytes_needed(source)}, "weight_map": index}
        write_text(part / "model.safetensors.index.json", json.dumps(total, indent=2) + "\n")
    for name in _KEPT:
        if (source.base.folder / name).is_file():
            with writing(part / name) as out:
                out.write((source.base.folder / name).read_bytes())
    (part / "key").unlink()
    write_text(part / PROVENANCE, json.dumps(dict(provenance), indent=2, sort_keys=True) + "\n")
    _replace(part, folder)


def _replace(part: Path, folder: Path) -> None:
    old = folder.with_name(folder.name + ".replaced")  # not .old: so people call their own copies
    try:
        if old.exists():
            shutil.rmtree(old)
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        sync_folder(folder.absolute().parent)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        raise from_os_error(error, folder) from error


def _size(source: TensorSource, name: str) -> int:
    return int(np.prod(source.shape(name), dtype=np.int64)) * np.dtype(DTYPES[source.dtype(name)]).itemsize


def _write_shard(source: TensorSource, names: list[str], path: Path) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        size = _size(source, name)
        header[name] = {"dtype": source.dtype(name), "shape": list(source.shape(name)), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with writing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for values in _pieces(source, name):
                file.write(_stored(values, source.dtype(name)).data.cast("B"))


def _pieces(source: TensorSource, name: str) -> Iterator[NDArray[np.float32]]:
    shape = source.shape(name)
    if len(shape) < 2:
        yield source.vector(name)
        return
    step = max(1, _SLAB // shape[1])
    for first in range(0, shape[0], step):
        yield source.rows(name, first, min(first + step, shape[0]))


def _stored(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype != "BF16":
        return values.astype(DTYPES[dtype])
    out = np.empty(values.size, np.uint16)
    as_bfloat(values.reshape(-1), out)
    return out


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise BadModel(f"{path} cannot be read: {error}.", f"Remove {path.parent} and run again.") from error
