"""The base model to fine-tune: found in a folder, on the model hub, or built in (``tiny``).

Only configuration, tokenizer and safetensors files are ever downloaded or read: no pickles, no code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from papertune.errors import BadModel, DiskFull, MissingLibrary, ModelAccess
from papertune.family import Family, family_of
from papertune.tokenizer import JSON, SENTENCEPIECE

HUB = "https://huggingface.co"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_FILES = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*", "special_tokens_map.json")
_NETWORK = ("httpx", "httpx2", "requests", "urllib3", "hf_xet")  # what the hub's library speaks through in one version or another
_ENDS = 1 << 16  # bytes at each end of a weight file that go into the fingerprint


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on disk: ``folder`` holds config.json, safetensors and a tokenizer. ``name`` is what the user called it."""

    name: str
    folder: Path
    config: dict[str, Any]
    family: Family
    weight_files: tuple[Path, ...]

    def fingerprint(self) -> str:
        """SHA-256 over the configuration and, of each weight file, size, header and both ends.

        Hashing all 14 GB of a 7B model would take longer than loading it; another model, or the same one tuned further, changes the ends.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for path in self.weight_files:
            size = path.stat().st_size
            with path.open("rb") as file:
                header = int.from_bytes(file.read(8), "little")
                digest.update(f"{path.name} {size} {header}".encode())
                digest.update(file.read(min(header, size) + _ENDS))
                file.seek(max(0, size - _ENDS))
                digest.update(file.read())
        return digest.hexdigest()


def cache_folder() -> Path:
    """Where papertune keeps what can be made again: ``PAPERTUNE_CACHE``, or the platform's own place for caches."""
    chosen = os.environ.get("PAPERTUNE_CACHE")
    if chosen:
        return Path(chosen)
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "papertune" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "papertune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "papertune"


def may_be_opened(name: str) -> bool:
    """Whether the name is that of the built-in model, of a folder that is there, or one that the hub could have."""
    return name == "tiny" or Path(name).expanduser().is_dir() or _HUB_NAME.fullmatch(name) is not None


def open_base(name: str) -> Base:
    """The base model called ``name``: ``tiny``, a local folder, or ``owner/model`` on the hub (downloaded once, ≈ 14 GB for a 7B model).

    Raises BadModel (a file is missing or damaged), UnsupportedModel (another architecture), ModelAccess (the hub has no such model, wants a
    login, or cannot be reached), MissingLibrary, DiskFull.
    """
    if name == "tiny":
        from papertune.tiny import make_tiny

        return open_folder(make_tiny(cache_folder()), name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return open_folder(folder, name)
    if _HUB_NAME.fullmatch(name):
        return open_folder(_download(name), name)
    raise BadModel(f"--model {name}: there is no such folder.", "Name a folder with a model, owner/model on the hub, or tiny.")


def open_shape(folder: Path, name: str) -> Base:
    """The model in this folder by its configuration alone: weights and tokenizer need not be there."""
    config = _read_json(folder / "config.json")
    return Base(name, folder, config, family_of(config, str(folder)), ())


def open_folder(folder: Path, name: str) -> Base:
    """The model in this folder, checked for completeness."""
    base = open_shape(folder, name)
    if not (folder / SENTENCEPIECE).is_file() and not (folder / JSON).is_file():
        raise BadModel(f"{folder} has neither {SENTENCEPIECE} nor {JSON}.", "Download the model again, with its tokenizer.")
    return replace(base, weight_files=_weight_files(folder))


def open_weights(path: Path, framework: str) -> Any:
    """The tensors of a weight file by name, mapped and not read. ``framework`` is that of safetensors: "np" or "pt". Raises BadModel."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        raise BadModel(f"{path} is damaged: {error}.", "Download the model again.") from error


def check_weights(base: Base) -> None:
    """That every weight file can be read and every layer is in one. Raises BadModel: a layer that is not there would be random numbers."""
    names = (name for path in base.weight_files for name in open_weights(path, "np").keys())  # noqa: SIM118 - no dictionary
    layers = {int(layer[1]) for name in names if (layer := _LAYER.search(name))}
    count = base.config["num_hidden_layers"]
    if absent := set(range(count)) - layers:
        raise BadModel(f"{base.folder} holds no layer {min(absent)} of the {count} that its config.json names.", "Download the model again.")


def _weight_files(folder: Path) -> tuple[Path, ...]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if not index.is_file():
        pickled = any(folder.glob("*.bin"))
        what = f"{folder} has its weights only as pickles (.bin), which can run code when read." if pickled else f"{folder} has no model.safetensors."
        raise BadModel(what, "Choose a copy of the model with safetensors files.")
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BadModel(f"{index} lists no weights.", "Download the model again.")
    files = tuple(folder / shard for shard in sorted(set(map(str, shards.values()))))
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise BadModel(f"{folder} lacks {absent[0]} ({len(absent)} of {len(files)} weight files are missing).", "Download the model again.")
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadModel(f"{path.parent} has no {path.name}.", "Name a folder in the Hugging Face layout.") from error
    except (OSError, ValueError) as error:
        raise BadModel(f"{path} cannot be read: {error}.", "Download the model again.") from error
    if not isinstance(value, dict):
        raise BadModel(f"{path} is not a JSON object.", "Download the model again.")
    return value


def _download(name: str) -> Path:
    """The hub's files of this model in its own cache; nothing is fetched that is there already."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
    except ImportError as error:
        raise MissingLibrary("huggingface_hub is not installed; it downloads models.", "Run: pip install huggingface_hub") from error
    url = f"{HUB}/{name}"
    login = "then run: hf auth login (once called huggingface-cli login)"
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except GatedRepoError as error:
        raise ModelAccess(f"{name} asks for your consent and a login.", f"Accept its terms at {url}, {login}.") from error
    except RepositoryNotFoundError as error:
        raise ModelAccess(f"{name} is not on the hub, or is private.", f"Check {url}, {login}.") from error
    except HfHubHTTPError as error:
        raise ModelAccess(f"The hub refused {name}: {_first_line(error)}.", f"Check {url}, {login}.") from error
    except ValueError as error:
        raise BadModel(f"{name} is not a model's name: {_first_line(error)}.", f"Look it up at {HUB}.") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"The disk filled up while {name} was downloaded: {error}.", "Free 15 GB and run the same command again.") from error
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _NETWORK:
            raise
        raise ModelAccess(
            f"{name} could not be downloaded: {_first_line(error)}.",
            f"Check the network and {url}, {login}; or give --model a local folder, or tiny for a trial.",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
