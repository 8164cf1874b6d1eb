"""Can the files that were asked for be written under their names, and is the validation text there? Told before any work, which takes minutes."""

from __future__ import annotations

from pathlib import Path

from papertune.config import ExportConfig
from papertune.errors import BadValue, CannotWrite
from papertune.export.modelfile import checked_file, checked_name
from papertune.export.record import record_path
from papertune.ollama import address

MODELFILE, MODELFILE_NEW = "Modelfile", "Modelfile.new"


def check_names(config: ExportConfig) -> None:
    """Raises BadValue for a name or an address that cannot be, CannotWrite where a folder has the place of a file."""
    checked_name(config.ollama_name)
    if config.create:
        address(config.host)
    val_file = config.val_file
    if val_file != ExportConfig().val_file and not val_file.is_file():  # without the default one a paragraph of papertune's own will do
        raise BadValue(f"--val-file {val_file}: there is no such file.", "Name the val.jsonl of prepare_dataset.py, or leave --val-file away.")
    gguf = config.gguf_path
    if gguf.is_dir() or gguf.name == "..":
        raise BadValue(f"--gguf-path {gguf} is a folder.", f"Name a file in it, such as {gguf / ExportConfig().gguf_path.name}.")
    checked_file(gguf.name)
    taken = {gguf.with_name(MODELFILE): "the Modelfile", gguf.with_name(MODELFILE_NEW): "the Modelfile", record_path(gguf): "the GGUF's record"}
    for path in taken:
        if path.is_dir():
            raise CannotWrite(f"{path} is a folder, and {taken[path]} has that name.", "Move it away, or choose another folder with --gguf-path.")
    taken[config.merged_dir] = "the merged model"
    _check_free("--gguf-path", gguf, taken)
    taken[gguf] = "the GGUF"
    if config.lora_gguf is not None:
        if config.lora_gguf.is_dir():
            raise BadValue(f"--lora-gguf {config.lora_gguf} is a folder.", f"Name a file in it, such as {config.lora_gguf / 'lora.gguf'}.")
        _check_free("--lora-gguf", config.lora_gguf, taken)


def _check_free(flag: str, path: Path, taken: dict[Path, str]) -> None:
    for other, what in taken.items():
        if str(path.resolve()).casefold() == str(other.resolve()).casefold():  # on some systems letters' case makes no other name
            raise BadValue(f"{flag} {path} is the place of {what}.", f"Choose another name for {flag}.")
