"""Step 4: adapter and base model to one quantised GGUF file, and the Modelfile with which Ollama runs it.

The GGUF is a function of the base model, the adapter and the settings alone: its bytes are the same whether it was made in one go, after
being killed, or from a merged folder. Its metadata names what it was made from, which is also how an export that still holds is found.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papertune.adapter import CONFIG, WEIGHTS, Adapter, open_adapter
from papertune.base import Base, may_be_opened, open_base, open_folder
from papertune.config import ExportConfig
from papertune.errors import BadModel, CannotWrite, MissingLibrary
from papertune.events import Notice, OnEvent, Report, Started, Unit, ignore
from papertune.files import as_bytes, make_folder, sha256_of, writing

if TYPE_CHECKING:
    from papertune.export.gguf import Head
    from papertune.export.imatrix import Importance
    from papertune.export.modelfile import Modelfile
    from papertune.export.source import TensorSource

CODE_VERSION = 2
"""Raised when this room would write other bytes for the same input; it stands in the GGUF."""

_IMATRIX_TEXTS, _IMATRIX_LENGTH = 32, 512


def run(config: ExportConfig, *, on_event: OnEvent = ignore) -> Report:
    """Exports, or finds that the same export stands.

    Raises BadAdapter, BadModel, BadGguf, BadExport, BadDataset (the validation text), UnsupportedModel, ModelAccess, MissingLibrary, BadValue,
    OllamaUnavailable, Busy, DiskFull, OutOfMemory, CannotWrite.
    """
    from papertune.export.gguf import read_head
    from papertune.export.names import check_names

    check_names(config)
    report = Report("export", written=[config.gguf_path])
    sha256 = ""
    if config.skip_convert:
        report.states["fresh"] = 1
    else:
        sha256 = _convert(config, report, on_event)
    modelfile = _modelfile(config, read_head(config.gguf_path))
    _write_modelfile(config, modelfile, report, on_event)
    if config.create:
        _create(config, modelfile, sha256 or sha256_of(config.gguf_path), report, on_event)
    return report


@dataclass(frozen=True, slots=True)
class _Input:
    """What is exported: ``adapter`` is None when ``base`` is a merged folder. ``provenance`` goes into the GGUF's metadata."""

    base: Base
    adapter: Adapter | None
    provenance: dict[str, str]


def _convert(config: ExportConfig, report: Report, on_event: OnEvent) -> str:
    """The GGUF's SHA-256, or an empty string where it stood already."""
    try:
        from papertune.export import room
        from papertune.export.convert import Wanted, convert, plan
        from papertune.export.lora import write_lora
        from papertune.export.merged import check_replaceable, read_provenance, write_merged
        from papertune.export.source import TensorSource
        from papertune.export.texts import sample_texts
        from papertune.export.vocabulary import read_vocabulary
    except ImportError as error:
        raise MissingLibrary(f"{error.name} is needed for the export and does not import.", f"Run: pip install {error.name}") from error

    given = _open(config, on_event)
    with TensorSource(given.base, given.adapter, nf4=config.merge_base == "nf4") as source:
        read_vocabulary(given.base.folder, given.base.config["vocab_size"])  # refused before any work
        texts = sample_texts(config.val_file) if config.verify else None
        merging = given.adapter is not None and _wants_merged(config) and read_provenance(config.merged_dir) != given.provenance
        if given.adapter is not None and merging:
            check_replaceable(config.merged_dir, given.adapter.folder, given.base.folder)
        weighing = _IMATRIX_TEXTS * _IMATRIX_LENGTH if config.imatrix == "auto" else 0
        jobs = plan(source, config.quant, weighted=config.imatrix != "off")
        room.check_all(source, jobs, config.gguf_path, merged=config.merged_dir if merging else None, weighing=weighing, verify=config.verify)
        if merging:
            write_merged(source, config.merged_dir, given.provenance, on_event)
        if given.adapter and _wants_merged(config):
            report.written.insert(0, config.merged_dir)
        elif given.adapter:
            report.summary.append(("Merged", "on the way, no folder of it written (--keep-merged writes one)"))
        if given.adapter and config.lora_gguf:
            write_lora(config.lora_gguf, given.base, given.adapter, given.provenance)
            report.written.append(config.lora_gguf)
        importance, origin = _importance(config, source, given, on_event)
        provenance = {**given.provenance, **origin, "code_version": str(CODE_VERSION)}
        foreign = given.adapter is not None and "model" not in given.adapter.provenance.get("run", {})
        wanted = Wanted(config.gguf_path, config.quant, config.ollama_name, provenance, importance, texts, foreign)
        sha256 = convert(source, wanted, report, on_event)
        report.fresh = report.fresh and not merging and not (given.adapter and config.lora_gguf)
        return sha256


def _wants_merged(config: ExportConfig) -> bool:
    """The GGUF needs no merged folder; it is written for those who ask for it, by flag or by naming one."""
    return config.keep_merged or config.merged_dir != ExportConfig().merged_dir


def _open(config: ExportConfig, on_event: OnEvent) -> _Input:
    """Base and adapter, or the merged folder with ``--skip-merge``."""
    if config.skip_merge and not config.merged_dir.exists():
        on_event(Notice(f"There is no merged model at {config.merged_dir}; merging on the way, which takes no longer."))
    elif config.skip_merge:
        from papertune.export.merged import MERGED_FROM, read_provenance

        provenance = read_provenance(config.merged_dir)
        weights = config.lora_path / WEIGHTS
        if provenance and weights.is_file() and provenance[MERGED_FROM] != sha256_of(weights):
            what = f"{config.merged_dir} was merged from another adapter than {config.lora_path} is now, and is exported as it is."
            on_event(Notice(f"{what} For the new adapter, leave --skip-merge away.", "warning"))
        base = open_folder(config.merged_dir, provenance.get("base", str(config.merged_dir)))
        return _Input(base, None, provenance or {"base": base.name, "base.fingerprint": base.fingerprint()})
    adapter = open_adapter(config.lora_path)
    if not may_be_opened(adapter.base_model):
        what = f"{config.lora_path} was trained on {adapter.base_model}, and there is no such folder."
        raise BadModel(what, f"Bring the model back, or write where it is now as base_model_name_or_path into {config.lora_path / CONFIG}.")
    base = open_base(adapter.base_model)
    fingerprint = base.fingerprint()
    adapter.check_base(base.name, fingerprint)
    provenance = {
        "base": base.name if not Path(base.name).expanduser().is_dir() else Path(base.name).name,
        "base.fingerprint": fingerprint,
        "adapter.sha256": sha256_of(adapter.folder / WEIGHTS),
        **_data_hashes(adapter.provenance),
        **({"merge_base": "nf4"} if config.merge_base == "nf4" else {}),
    }
    return _Input(base, adapter, provenance)


def _data_hashes(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of the training data, as the adapter records them."""
    run = provenance.get("run", {})
    return {f"dataset.{key}.sha256": str(run[f"{key}_data"]) for key in ("train", "val") if isinstance(run.get(f"{key}_data"), str)}


def _importance(config: ExportConfig, source: TensorSource, given: _Input, on_event: OnEvent) -> tuple[Importance, dict[str, str]]:
    """The importance matrix and what it was made from. With ``auto`` it is kept beside the GGUF, so that a run that was killed finds it."""
    from papertune.export.imatrix import collect, read_imatrix, write_imatrix
    from papertune.export.texts import sample_texts, sample_tokens

    if config.imatrix == "off":
        return {}, {}
    path = Path(config.imatrix)
    if config.imatrix == "auto":
        texts = sample_texts(config.val_file)
        tokens = sample_tokens(given.base, texts, count=_IMATRIX_TEXTS, length=_IMATRIX_LENGTH)
        key = _key(given.provenance, tokens)
        path = config.gguf_path.with_name(f"{config.gguf_path.stem}.{key}.imatrix.gguf")
        if not path.exists():
            on_event(Started("Weighing columns", None, "matrices"))
            make_folder(path.parent)
            write_imatrix(path, collect(source, tokens, _device()), str(config.val_file))
    return read_imatrix(path, source), {"imatrix.sha256": sha256_of(path)}


def _key(provenance: Mapping[str, str], tokens: list[list[int]]) -> str:
    import hashlib

    return hashlib.sha256(repr((sorted(provenance.items()), tokens)).encode()).hexdigest()[:12]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _modelfile(config: ExportConfig, head: Head) -> Modelfile:
    from papertune.export.modelfile import Modelfile, parameters

    metadata = head.metadata
    architecture = metadata.get("general.architecture", "llama")
    context, window = metadata.get(f"{architecture}.context_length"), metadata.get(f"{architecture}.attention.sliding_window")
    tokens, eos = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.eos_token_id")
    stop = tokens[eos] if isinstance(tokens, list) and isinstance(eos, int) and eos < len(tokens) else b"</s>"
    assert isinstance(stop, bytes)
    settings = parameters(context if isinstance(context, int) else 2048, window if isinstance(window, int) else None, stop.decode())
    licence = metadata.get("general.license")
    return Modelfile(config.gguf_path.name, settings, licence=licence if isinstance(licence, str) else "")


def _write_modelfile(config: ExportConfig, modelfile: Modelfile, report: Report, on_event: OnEvent) -> None:
    """Writes the Modelfile, under another name where a person's own has its place."""
    from papertune.export.modelfile import is_unchanged, marked
    from papertune.export.names import MODELFILE, MODELFILE_NEW

    path = config.gguf_path.with_name(MODELFILE)
    text = modelfile.text()
    file = marked(text)
    make_folder(path.parent)
    there = _read(path)
    command = path
    if there and not is_unchanged(there) and there != as_bytes(text):  # without its mark, as earlier versions wrote it
        theirs, path = path, path.with_name(MODELFILE_NEW)
        made_by = " --create takes the settings of the new one." if config.create else ""
        on_event(Notice(f"{theirs} is not as papertune wrote it, and is kept; the new one is {path}.{made_by}", "warning"))
        if file.partition(b"\n")[0] not in there.splitlines():  # theirs is for another GGUF
            command = path
    if _read(path) != file:
        with writing(path) as out:
            out.write(file)
        report.fresh = False
    report.written.append(path)
    report.next_command = f"ollama create {config.ollama_name} -f {shlex.quote(str(command))}"


def _read(path: Path) -> bytes:
    """Empty where there is no file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise CannotWrite(f"{path} cannot be read: {error.strerror}.", "Move it away, or choose another folder with --gguf-path.") from error


def _create(config: ExportConfig, modelfile: Modelfile, sha256: str, report: Report, on_event: OnEvent) -> None:
    """Makes the model in Ollama, so that nothing is left to type but ``ollama run``."""
    from papertune.export.ollama import Ollama

    ollama = Ollama(config.host, manual=report.next_command)
    ollama.version()
    size = config.gguf_path.stat().st_size
    on_event(Started("Sending to Ollama", size >> 20, "MiB"))
    told = 0

    def progress(sent: int) -> None:
        nonlocal told
        if sent >> 20 > told:
            told = sent >> 20
            on_event(Unit(told))

    ollama.upload(config.gguf_path, sha256, progress)
    said = ollama.create(config.ollama_name, sha256, template=modelfile.template, parameters=modelfile.parameters, licence=modelfile.licence)
    on_event(Started("Making the model in Ollama", None, "steps"))
    for number, _ in enumerate(said, 1):
        on_event(Unit(number))
    report.summary.append(("Ollama", f"made {config.ollama_name}"))
    report.fresh = False
    report.next_command = f"ollama run {config.ollama_name}"
