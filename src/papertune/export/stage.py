"""Step 4: adapter and base model to one quantised GGUF file, and the Modelfile with which Ollama runs it.

The GGUF is a function of the base model, the adapter and the settings alone: its bytes are the same whether it was made in one go, after
being killed, or from a merged folder. Its metadata names what it was made from, which is also how an export that still holds is found.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papertune.adapter import WEIGHTS, Adapter, open_adapter
from papertune.base import Base, open_base, open_folder
from papertune.config import ExportConfig
from papertune.errors import BadAdapter, DiskFull, MissingLibrary
from papertune.events import Notice, OnEvent, Report, Started, Unit, ignore
from papertune.files import make_folder, sha256_of, write_text

if TYPE_CHECKING:
    from papertune.export.gguf import Head
    from papertune.export.source import TensorSource
    from papertune.export.stream import Job

CODE_VERSION = 1
"""Raised when this room would write other bytes for the same input; it stands in the GGUF."""

_SPARE = 64 << 20  # bytes to leave free on the disk


def run(config: ExportConfig, *, on_event: OnEvent = ignore) -> Report:
    """Exports, or finds that the same export stands.

    Raises BadAdapter, BadModel, BadGguf, UnsupportedModel, ModelAccess, MissingLibrary, BadValue, Busy, DiskFull, CannotWrite.
    """
    from papertune.export.modelfile import checked_name

    checked_name(config.ollama_name)
    report = Report("export", written=[config.gguf_path])
    if config.skip_convert:
        from papertune.export.gguf import read_head

        head = read_head(config.gguf_path)
        report.states["fresh"] = 1
    else:
        head = _convert(config, report, on_event)
    _write_modelfile(config, head, report)
    return report


@dataclass(frozen=True, slots=True)
class _Input:
    """What is exported: ``adapter`` is None when ``base`` is a merged folder. ``provenance`` goes into the GGUF's metadata."""

    base: Base
    adapter: Adapter | None
    provenance: dict[str, str]


def _convert(config: ExportConfig, report: Report, on_event: OnEvent) -> Head:
    try:
        from papertune.export.source import TensorSource
    except ImportError as error:
        raise MissingLibrary(f"{error.name} is needed for the export and does not import.", f"Run: pip install {error.name}") from error

    given = _open(config, on_event)
    with TensorSource(given.base, given.adapter) as source:
        if given.adapter and _wants_merged(config):
            _merge(config, source, given, report, on_event)
        return _write_gguf(config, source, given, report, on_event)


def _wants_merged(config: ExportConfig) -> bool:
    """The GGUF needs no merged folder; it is written for those who ask for it, by flag or by naming one."""
    return config.keep_merged or config.merged_dir != ExportConfig().merged_dir


def _open(config: ExportConfig, on_event: OnEvent) -> _Input:
    """Base and adapter, or the merged folder with ``--skip-merge``."""
    if config.skip_merge and not config.merged_dir.exists():
        on_event(Notice(f"There is no merged model at {config.merged_dir}; merging on the way, which takes no longer."))
    elif config.skip_merge:
        from papertune.export.merged import read_provenance

        provenance = read_provenance(config.merged_dir)
        base = open_folder(config.merged_dir, provenance.get("base", str(config.merged_dir)))
        return _Input(base, None, provenance or {"base": base.name, "base.fingerprint": base.fingerprint()})
    adapter = open_adapter(config.lora_path)
    base = open_base(adapter.base_model)
    trained_on = adapter.provenance.get("run", {}).get("model")
    fingerprint = base.fingerprint()
    if trained_on is not None and trained_on != fingerprint:
        what = f"{config.lora_path} was trained on another model than {base.name} is now."
        raise BadAdapter(what, "Bring the model back that it was trained on, or train again.")
    provenance = {
        "base": base.name if not Path(base.name).expanduser().is_dir() else Path(base.name).name,
        "base.fingerprint": fingerprint,
        "adapter.sha256": sha256_of(adapter.folder / WEIGHTS),
        **_data_hashes(adapter.provenance),
    }
    return _Input(base, adapter, provenance)


def _data_hashes(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of the training data, as the adapter records them."""
    run = provenance.get("run", {})
    return {f"dataset.{name}.sha256": run[f"{name}_data"] for name in ("train", "val") if isinstance(run.get(f"{name}_data"), str)}


def _merge(config: ExportConfig, source: TensorSource, given: _Input, report: Report, on_event: OnEvent) -> None:
    """Writes the merged folder unless it stands already."""
    from papertune.export.merged import bytes_needed, read_provenance, write_merged

    if read_provenance(config.merged_dir) != given.provenance:
        _need(config.merged_dir, bytes_needed(source), "the merged model")
        write_merged(source, config.merged_dir, given.provenance, on_event)
    report.written.insert(0, config.merged_dir)


def _write_gguf(config: ExportConfig, source: TensorSource, given: _Input, report: Report, on_event: OnEvent) -> Head:
    """The GGUF file under its final name, made now or standing already."""
    from papertune.device import cores
    from papertune.export.gguf import head_bytes, lay_out, read_head
    from papertune.export.metadata import describe
    from papertune.export.mix import MIXES
    from papertune.export.part import Part
    from papertune.export.quantize.kernels import compile_for
    from papertune.export.stream import stream
    from papertune.export.vocabulary import read_vocabulary

    mix = MIXES[config.quant]
    vocabulary = read_vocabulary(given.base.folder, given.base.config["vocab_size"])
    provenance = {**given.provenance, "code_version": str(CODE_VERSION)}
    metadata = describe(given.base, vocabulary, mix, name=config.ollama_name, provenance=provenance)
    jobs = _plan(source, config.quant)
    tensors = lay_out((job.info.name, job.info.shape, job.info.type) for job in jobs)
    head = head_bytes(metadata, tensors)
    size = len(head) + sum(-(-tensor.size // 32) * 32 for tensor in tensors)
    if _stands(config.gguf_path, head, size):
        report.fresh = True
        report.states["fresh"] = 1
        return read_head(config.gguf_path)
    part = config.gguf_path.with_name(config.gguf_path.name + ".part")
    _need(config.gguf_path, size - (part.stat().st_size if part.exists() else 0), "the GGUF file")
    compiling = compile_for({tensor.type for tensor in tensors})
    with Part(config.gguf_path, head, tensors, hashlib.sha256(head).hexdigest()) as out:
        on_event(Started("Quantising", len(jobs), "tensors", out.done))
        first = out.done
        for job, data, last in stream(source, jobs[first:], cores(), {}):
            out.write(data)
            if last:
                out.end_tensor()
                on_event(Unit(out.done, jobs[first + job].info.name))
        sha256 = out.sync()
        out.publish()
    report.states["ok"] = 1
    report.summary += [("GGUF", f"{config.gguf_path}, {config.quant}, {size / 1e9:.2f} GB"), ("sha256", sha256)]
    if compiling > 2:
        report.summary.append(("Compiled the quantisers", f"{compiling:.0f} s, once"))
    return read_head(config.gguf_path)


def _plan(source: TensorSource, quant: str) -> list[Job]:
    """One job a tensor, in llama.cpp's order: by layer, then by name; what belongs to no layer comes first."""
    from papertune.export.gguf import lay_out
    from papertune.export.mix import MIXES, Shape, type_of
    from papertune.export.stream import Job
    from papertune.family import key_value_heads

    config = source.base.config
    heads, shared = config["num_attention_heads"], key_value_heads(config)
    layers = config["num_hidden_layers"]
    model = Shape(layers, "lm_head.weight" not in source.names, False, layers == 80 and shared != heads)
    paired = dict(zip(source.base.family.permuted, (heads, shared), strict=True))

    def place(names: tuple[str, str]) -> tuple[int, str]:
        return (int(names[1].split(".")[1]) if names[1].startswith("blk.") else -1, names[1])

    ordered = sorted(source.names.items(), key=place)
    infos = lay_out((theirs, source.shape(ours), type_of(MIXES[quant], theirs, source.shape(ours), model)) for ours, theirs in ordered)
    return [
        Job(ours, info, next((count for part, count in paired.items() if ours.endswith(f"{part}.weight")), 0))
        for (ours, _), info in zip(ordered, infos, strict=True)
    ]


def _stands(path: Path, head: bytes, size: int) -> bool:
    """Whether the file is there whole with exactly this head."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size == size and file.read(len(head)) == head
    except OSError:
        return False


def _need(path: Path, size: int, what: str) -> None:
    """Raises DiskFull when ``size`` bytes do not fit where ``path`` will be."""
    from papertune.device import disk_free, gib

    free = disk_free(path)
    if free < size + _SPARE:
        raise DiskFull(f"{what[0].upper()}{what[1:]} at {path} needs {gib(size)}; {gib(free)} are free.", "Free some space or choose another disk.")


def _write_modelfile(config: ExportConfig, head: Head, report: Report) -> None:
    from papertune.export.modelfile import Modelfile, parameters

    metadata = head.metadata
    architecture = metadata.get("general.architecture", "llama")
    context, window = metadata.get(f"{architecture}.context_length"), metadata.get(f"{architecture}.attention.sliding_window")
    tokens, eos = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.eos_token_id")
    stop = tokens[eos] if isinstance(tokens, list) and isinstance(eos, int) and eos < len(tokens) else b"</s>"
    assert isinstance(stop, bytes)
    settings = parameters(context if isinstance(context, int) else 2048, window if isinstance(window, int) else None, stop.decode())
    path = config.gguf_path.parent / "Modelfile"
    text = Modelfile(config.gguf_path.name, settings).text()
    make_folder(path.parent)
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text)
        report.fresh = False
    report.written.append(path)
    report.next_command = f"ollama create {config.ollama_name} -f {shlex.quote(str(path))}"
