"""A LoRA adapter on disk, in the stock format of PEFT: ``adapter_config.json`` and ``adapter_model.safetensors``.

For a projection with weight W (out × in) an adapter holds A (rank × in) and B (out × rank); the tuned weight is W + scale · B · A, where
scale = alpha / rank, or alpha / √rank with rank-stabilised LoRA. ``papertune.json`` beside them says where the adapter comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from papertune.errors import BadAdapter
from papertune.files import make_folder, write_tensors, write_text

if TYPE_CHECKING:
    import numpy as np

CONFIG, WEIGHTS, PROVENANCE = "adapter_config.json", "adapter_model.safetensors", "papertune.json"
_REMEDY = "Run finetune.py first, or name an adapter's folder with --lora-path."
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
# Settings of PEFT that change the meaning of the weights in a way papertune does not apply.
_UNKNOWN = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "trainable_token_indices", "lora_bias")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that was opened and found whole. ``base_model`` is the name of the model it was trained on."""

    folder: Path
    base_model: str
    rank: int
    alpha: float
    use_rslora: bool
    target_modules: tuple[str, ...]
    provenance: dict[str, Any]

    @property
    def scale(self) -> float:
        return float(self.alpha / (self.rank**0.5 if self.use_rslora else self.rank))

    def check_base(self, name: str, fingerprint: str) -> None:
        """Raises BadAdapter when it was trained on another model than this; an adapter that papertune did not make does not tell."""
        if self.provenance.get("run", {}).get("model") not in (None, fingerprint):
            what = f"{self.folder} was trained on another model than {name} is now."
            raise BadAdapter(what, "Bring the model back that it was trained on, or train again.")

    def tensors(self) -> dict[str, np.ndarray]:
        """PEFT's tensor names to float32 arrays. Raises BadAdapter when the file is damaged."""
        return _read_weights(self.folder / WEIGHTS)

    def pairs(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Module name in the base model (``model.layers.0.self_attn.q_proj``) → (A, B) in float32.

        Raises BadAdapter for a half without its other half, a shape that is not the rank's, or a tensor that is no LoRA weight.
        """
        halves: dict[str, dict[str, np.ndarray]] = {}
        for name, tensor in self.tensors().items():
            match = _NAME.fullmatch(name)
            if match is None:
                raise BadAdapter(f"{self.folder / WEIGHTS} holds {name}, which is no LoRA weight.", _REMEDY)
            halves.setdefault(match["module"], {})[match["half"]] = tensor
        pairs = {}
        for module, half in halves.items():
            a, b = half.get("A"), half.get("B")
            if a is None or b is None:
                raise BadAdapter(f"{self.folder / WEIGHTS} has only one half of {module}.", _REMEDY)
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != self.rank or b.shape[1] != self.rank:
                raise BadAdapter(f"{self.folder / WEIGHTS}: {module} has shapes {a.shape} and {b.shape}, not of rank {self.rank}.", _REMEDY)
            pairs[module] = (a, b)
        return pairs


def open_adapter(folder: Path) -> Adapter:
    """The adapter in this folder. Raises BadAdapter, saying what is missing or what cannot be used."""
    if not folder.is_dir():
        raise BadAdapter(f"There is no adapter at {folder}.", _REMEDY)
    config = _read_config(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").exists()
        what = f"{folder} has its weights only as a pickle, which can run code when read." if pickled else f"{folder} has no {WEIGHTS}."
        raise BadAdapter(what, _REMEDY)
    for key in _UNKNOWN:
        if config.get(key):
            raise BadAdapter(f"{folder / CONFIG} sets {key}, which papertune cannot apply.", "Use a plain LoRA adapter.")
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise BadAdapter(f"{folder / CONFIG} is not a plain LoRA adapter.", "Use an adapter of peft_type LORA with bias none.")
    try:
        targets = config["target_modules"]
        return Adapter(
            folder=folder,
            base_model=str(config["base_model_name_or_path"]),
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            use_rslora=bool(config.get("use_rslora", False)),
            target_modules=(targets,) if isinstance(targets, str) else tuple(sorted(map(str, targets))),
            provenance=_read_provenance(folder / PROVENANCE),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadAdapter(f"{folder / CONFIG} lacks a usable {error}.", _REMEDY) from error


def weakened(tensors: Mapping[str, np.ndarray], strength: float) -> dict[str, np.ndarray]:
    """The adapter that moves the base model's weights ``strength`` times as far: B is so much smaller. ``tensors`` as in ``write_adapter``."""
    import numpy as np

    return {name: tensor * np.float32(strength) if ".lora_B." in name else tensor for name, tensor in tensors.items()}


def write_adapter(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    base_model: str,
    rank: int,
    alpha: float,
    dropout: float,
    target_modules: tuple[str, ...],
    provenance: Mapping[str, Any],
) -> None:
    """Writes an adapter that ``PeftModel.from_pretrained`` loads. The same arguments give the same bytes.

    ``tensors`` are float32 arrays under PEFT's names. Raises DiskFull or CannotWrite. Whoever wants the folder whole or absent writes it
    beside its place and renames it.
    """
    import numpy as np

    make_folder(folder)
    write_tensors(folder / WEIGHTS, {name: np.asarray(tensor, dtype=np.float32) for name, tensor in tensors.items()})
    config = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(target_modules),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    write_text(folder / PROVENANCE, json.dumps(dict(provenance), indent=2, sort_keys=True, default=str) + "\n")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadAdapter(f"{path.parent} has no {path.name}.", _REMEDY) from error
    except (OSError, ValueError) as error:
        raise BadAdapter(f"{path} cannot be read: {error}.", _REMEDY) from error
    if not isinstance(value, dict):
        raise BadAdapter(f"{path} is not a JSON object.", _REMEDY)
    return value


def _read_provenance(path: Path) -> dict[str, Any]:
    """Empty for an adapter that papertune did not make."""
    value = _read_config(path) if path.exists() else {}
    if not isinstance(value.get("run", {}), dict):
        raise BadAdapter(f"{path}: run is not a JSON object.", _REMEDY)
    return value


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    import numpy as np
    from safetensors import SafetensorError, deserialize

    kinds = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "BF16": np.uint16}
    tensors = {}
    try:
        for name, entry in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call,unused-ignore]
            raw = np.frombuffer(entry["data"], dtype=kinds[entry["dtype"]]).reshape(entry["shape"])
            wide = (raw.astype(np.uint32) << 16).view(np.float32) if entry["dtype"] == "BF16" else raw.astype(np.float32)
            tensors[name] = wide
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise BadAdapter(f"{path} is damaged: {error}.", _REMEDY) from error
    if not tensors:
        raise BadAdapter(f"{path} holds no weights.", _REMEDY)
    return tensors
