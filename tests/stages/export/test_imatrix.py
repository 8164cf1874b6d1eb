"""The importance matrix from the user's own text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from papertune.base import open_base
from papertune.config import ExportConfig
from papertune.errors import BadValue
from papertune.export.stage import run
from papertune.files import sha256_of
from papertune.tokenizer import open_tokenizer

TEXT = "# On naïve Σ-algebras\n\nThe quick brown fox — 3.14 % of 日本語 — jumps;  twice.\n"


def test_an_importance_matrix_is_made_kept_and_read(config: Callable[..., ExportConfig]) -> None:
    Path("val.jsonl").write_text("".join(json.dumps({"text": f"{TEXT} {i}"}) + "\n" for i in range(40)))
    run(config(val_file=Path("val.jsonl"), quant="Q5_0", gguf_path=Path("plain/x.gguf")))
    run(config(val_file=Path("val.jsonl"), quant="Q5_0", imatrix="auto"))
    made = next(Path().glob("*.imatrix.gguf"))
    before = made.stat().st_mtime_ns
    direct = sha256_of(Path("scientific-mistral.gguf"))
    assert direct != sha256_of(Path("plain/x.gguf"))
    assert run(config(val_file=Path("val.jsonl"), quant="Q5_0", imatrix="auto")).fresh
    assert made.stat().st_mtime_ns == before
    run(config(quant="Q5_0", imatrix=str(made), gguf_path=Path("again/x.gguf")))
    assert sha256_of(Path("again/x.gguf")) == direct
    with pytest.raises(BadValue, match="--imatrix nowhere"):
        run(config(imatrix="nowhere"))
    with pytest.raises(BadValue, match="no weights for this model"):
        run(config(imatrix="plain/x.gguf"))


def test_the_importance_matrix_is_the_mean_square_of_each_linears_input() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from papertune.export.forward import run_model
    from papertune.export.imatrix import collect
    from papertune.export.source import TensorSource

    base = open_base("tiny")
    tokens = [[1, *open_tokenizer(base.folder).encode(text)] for text in (TEXT, "Another text, of another length.")]
    with TensorSource(base, None) as source:
        ours, logits = collect(source, tokens), run_model(source, tokens)
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    sums: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, given, name=name: sums.update({name: sums.get(name, 0) + given[0][0].pow(2).sum(0)}))
    with torch.no_grad():
        theirs = [model(torch.tensor([ids])).logits[0].numpy() for ids in tokens]
    count = sum(map(len, tokens))
    assert np.allclose(ours["blk.1.ffn_down.weight"], sums["model.layers.1.mlp.down_proj"] / count, rtol=1e-3)
    assert np.allclose(ours["blk.0.attn_output.weight"], sums["model.layers.0.self_attn.o_proj"] / count, rtol=1e-3)
    assert "output.weight" not in ours
    assert all(np.abs(a - b).max() < 1e-3 for a, b in zip(logits, theirs, strict=True))
