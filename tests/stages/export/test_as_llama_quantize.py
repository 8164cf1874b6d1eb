"""Whole files against llama.cpp's own ``llama_model_quantize``: our Q4_K_M is what it makes of our BF16, and so for every ``--quant``.

It wants llama.cpp's shared libraries, of a build of one's own or unpacked from the npm package @node-llama-cpp/linux-x64 (which has them ready):

    PAPERTUNE_LLAMA_LIBRARIES=FOLDER pytest -m slow tests/stages/export/test_as_llama_quantize.py
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from papertune.adapter import open_adapter
from papertune.base import open_base
from papertune.config import QUANTS, ExportConfig
from papertune.export.imatrix import collect, read_imatrix, write_imatrix
from papertune.export.mix import MIXES
from papertune.export.source import TensorSource
from papertune.export.stage import run
from papertune.files import sha256_of
from papertune.tokenizer import open_tokenizer
from tests.adapters import random_adapter
from tests.wide_model import wide_model

LIBRARIES = os.environ.get("PAPERTUNE_LLAMA_LIBRARIES", "")
SEEDLING = Path(__file__).parents[4] / "shared" / "models" / "seedling"
TEXT = "Cells were kept at 37 °C in 5 % CO₂ and counted every 24 h (n = 12). Growth followed N(t) = N₀·e^{kt}. "
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not LIBRARIES, reason="PAPERTUNE_LLAMA_LIBRARIES names no folder")]


class _Weights(ctypes.Structure):
    """llama_model_imatrix_data"""

    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _Parameters(ctypes.Structure):
    """llama_model_quantize_params, with room for what later versions add"""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("nthread", "ftype", "output_tensor_type", "token_embedding_type")),
        *((name, ctypes.c_bool) for name in ("allow_requantize", "quantize_output_tensor", "only_copy", "pure", "keep_split", "dry_run")),
        *((name, ctypes.c_void_p) for name in ("imatrix", "kv_overrides", "tt_overrides", "prune_layers")),
        ("room", ctypes.c_byte * 64),
    ]


@cache
def _llama() -> Any:
    folder = Path(LIBRARIES)
    for name in ("libggml-base*", "libggml.*"):
        ctypes.CDLL(str(next(folder.glob(name))), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(next(folder.glob("libllama.*"))))
    library.llama_model_quantize_default_params.restype = _Parameters
    library.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Parameters)]
    return library


def llama_quantize(source: Path, out: Path, quant: str, importance: dict[str, np.ndarray]) -> None:
    parameters = _llama().llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = MIXES[quant].file_type, 1
    weights = (_Weights * (len(importance) + 1))(*((name.encode(), values.ctypes.data, values.size) for name, values in importance.items()))
    parameters.imatrix = ctypes.cast(weights, ctypes.c_void_p) if importance else None
    assert _llama().llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters)) == 0


def _untied(tied: Path, folder: Path) -> Path:
    """The same model with its head as a tensor of its own."""
    shutil.copytree(tied, folder)
    tensors = load_file(tied / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return folder


def _model(kind: str, folder: Path) -> str:
    if kind == "tiny":
        return "tiny"
    if "seedling" not in kind:
        return str(wide_model(folder, tied="tied" in kind))
    if not SEEDLING.is_dir():
        pytest.skip("the model seedling, of trained weights, is not there")
    return str(_untied(SEEDLING, folder) if "untied" in kind else SEEDLING)


@pytest.fixture(scope="module", params=["tiny", "wide", "wide, tied", "seedling", "seedling, untied"])
def lora(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return random_adapter(open_base(_model(request.param, folder / "base")), folder / "adapter", size=0.01)


@pytest.fixture(scope="module")
def matrix(lora: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """An importance matrix on disk and as it is read."""
    base, path = open_base(open_adapter(lora).base_model), lora.with_name("imatrix.gguf")
    with TensorSource(base, open_adapter(lora)) as source:
        write_imatrix(path, collect(source, [[1, *open_tokenizer(base.folder).encode(TEXT * 4)]]), "text")
        return path, read_imatrix(path, source)


@pytest.mark.parametrize("weighted", [False, True], ids=["without", "with a matrix"])
@pytest.mark.parametrize("quant", QUANTS)
def test_the_file_is_the_one_that_llama_cpp_makes(
    lora: Path, matrix: tuple[Path, dict[str, np.ndarray]], quant: str, weighted: bool, tmp_path: Path
) -> None:
    imatrix = str(matrix[0]) if weighted else "off"
    for name in ("BF16", quant):
        run(ExportConfig(lora_path=lora, gguf_path=tmp_path / f"{name}.gguf", quant=name, imatrix=imatrix, verify=False))
    llama_quantize(tmp_path / "BF16.gguf", tmp_path / "theirs.gguf", quant, matrix[1] if weighted else {})
    assert sha256_of(tmp_path / f"{quant}.gguf") == sha256_of(tmp_path / "theirs.gguf")
