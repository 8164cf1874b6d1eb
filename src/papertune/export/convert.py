"""From a source of tensors to one GGUF file under its final name: planned, checked for room, streamed, verified, then named."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from papertune.device import cores
from papertune.errors import MissingLibrary
from papertune.events import Notice, OnEvent, Report, Started, Unit
from papertune.export import room
from papertune.export.check import available
from papertune.export.gguf import TensorInfo, head_bytes, lay_out, padded
from papertune.export.metadata import describe
from papertune.export.mix import MIXES, Shape, type_of
from papertune.export.part import Part
from papertune.export.quantize.kernels import compile_for
from papertune.export.record import write_record
from papertune.export.source import TensorSource
from papertune.export.stream import Job, stream
from papertune.export.texts import LENGTH, VERIFIED, sample_tokens
from papertune.export.vocabulary import read_vocabulary
from papertune.family import key_value_heads

if TYPE_CHECKING:
    from papertune.export.verify import Verdict

_SPLIT = 200  # texts whose tokens are compared


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to make. ``importance`` is empty without a matrix; ``texts`` are for verification, None when it is not wanted. ``foreign`` says that
    the adapter does not tell which model it was trained on."""

    path: Path
    quant: str
    name: str
    provenance: Mapping[str, str]
    importance: Mapping[str, NDArray[np.float32]]
    texts: list[str] | None
    foreign: bool = False


def convert(source: TensorSource, wanted: Wanted, report: Report, on_event: OnEvent) -> str:
    """Writes the file unless exactly it stands already; returns its SHA-256, or an empty string where it stood.

    Raises UnsupportedModel, BadModel, BadAdapter, BadExport, Busy, DiskFull, OutOfMemory, CannotWrite.
    """
    mix = MIXES[wanted.quant]
    vocabulary = read_vocabulary(source.base.folder, source.base.config["vocab_size"])
    metadata = describe(source.base, vocabulary, mix, name=wanted.name, provenance=wanted.provenance)
    jobs = plan(source, wanted.quant, weighted=bool(wanted.importance))
    tensors = [job.info for job in jobs]
    head = head_bytes(metadata, tensors)
    size = len(head) + sum(padded(tensor.size) for tensor in tensors)
    if _stands(wanted.path, head, size):
        report.fresh = True
        report.states["fresh"] = 1
        return ""
    room.check(source, jobs, wanted.path, size, verify=wanted.texts is not None)
    compiling = compile_for({tensor.type for tensor in tensors}, importance=bool(wanted.importance))
    with Part(wanted.path, head, tensors, hashlib.sha256(head).hexdigest()) as out:
        _write(source, jobs, wanted.importance, out, on_event)
        sha256 = out.sync()
        verdict = None if wanted.texts is None else _verify(out.part, source, wanted.texts, wanted.foreign, report, on_event)
        write_record(wanted.path, head, size, sha256, verdict)
        out.publish()
    report.states["ok"] = 1
    report.summary.append(("GGUF", f"{wanted.path}, {wanted.quant}, {_words(size)}"))
    report.summary.append(("sha256", sha256))
    if compiling > 2:
        report.summary.append(("Compiled the quantisers", f"{compiling:.0f} s, once"))
    return sha256


def plan(source: TensorSource, quant: str, *, weighted: bool) -> list[Job]:
    """One job a tensor, in llama.cpp's order: by layer, then by name; what belongs to no layer comes first."""
    config = source.base.config
    heads, shared = config["num_attention_heads"], key_value_heads(config)
    layers = config["num_hidden_layers"]
    model = Shape(layers, "lm_head.weight" not in source.names, weighted, layers == 80 and shared != heads)
    paired = dict(zip(source.base.family.permuted, (heads, shared), strict=True))

    def place(names: tuple[str, str]) -> tuple[int, str]:
        return (int(names[1].split(".")[1]) if names[1].startswith("blk.") else -1, names[1])

    ordered = sorted(source.names.items(), key=place)
    infos: tuple[TensorInfo, ...] = lay_out((n, source.shape(o), type_of(MIXES[quant], n, source.shape(o), model)) for o, n in ordered)
    return [
        Job(ours, info, next((count for part, count in paired.items() if ours.endswith(f"{part}.weight")), 0))
        for (ours, _), info in zip(ordered, infos, strict=True)
    ]


def _write(source: TensorSource, jobs: list[Job], importance: Mapping[str, NDArray[np.float32]], out: Part, on_event: OnEvent) -> None:
    on_event(Started("Quantising", len(jobs), "tensors", out.done))
    first = out.done
    with closing(stream(source, jobs[first:], cores(), importance)) as slabs:  # its threads end before the files they read are closed
        for job, data, last in slabs:
            out.write(data)
            if last:
                out.end_tensor()
                on_event(Unit(out.done, jobs[first + job].info.name))


def _verify(path: Path, source: TensorSource, texts: list[str], foreign: bool, report: Report, on_event: OnEvent) -> Verdict | None:
    if not available():
        on_event(Notice("The GGUF was not verified, because xllamacpp is not installed (pip install xllamacpp)."))
        return None
    from papertune.export.verify import check_base, verify

    on_event(Started("Verifying", None, "tensors"))
    try:
        tokens = sample_tokens(source.base, texts, count=VERIFIED, length=LENGTH)
        verdict = verify(path, source, texts[:_SPLIT], tokens)
    except MissingLibrary as error:
        on_event(Notice(f"The GGUF was not verified: {error.what}", "warning"))
        return None
    if foreign:
        check_base(source, tokens, verdict)
    report.summary.append(("Verified", str(verdict)))
    return verdict


def _stands(path: Path, head: bytes, size: int) -> bool:
    """Whether the file is there whole with exactly this head."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size == size and file.read(len(head)) == head
    except OSError:
        return False


def _words(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
