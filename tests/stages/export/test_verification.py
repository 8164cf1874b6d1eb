"""The GGUF in llama.cpp beside the model it was made from: what does not agree gets no name."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import papertune
from papertune.base import open_base
from papertune.config import ExportConfig
from papertune.errors import BadAdapter, BadExport, BadGguf
from papertune.events import Event, Notice
from papertune.export.check import available, load_gguf
from papertune.export.gguf import read_head
from papertune.export.stage import run
from papertune.tokenizer import open_tokenizer
from tests.adapters import random_adapter
from tests.wide_model import wide_model

TEXT = "# On naïve Σ-algebras\n\nThe quick brown fox — 3.14 % of 日本語 — jumps;  twice.\n"


needs_llama = pytest.mark.skipif(not available(), reason="xllamacpp is not installed")


@needs_llama
@pytest.mark.parametrize("quant", ["F16", "BF16", "Q8_0", "Q4_K_M"])
def test_llama_cpp_reads_and_writes_as_the_model_does(config: Callable[..., ExportConfig], quant: str) -> None:
    run(config(quant=quant, keep_merged=True))
    ids = open_tokenizer(Path("merged_model")).encode(TEXT)
    with load_gguf(Path("scientific-mistral.gguf"), 128) as gguf:
        assert gguf.tokenize(TEXT) == ids
        assert gguf.decode(ids) == TEXT
        ours = gguf.logits([gguf.bos, *ids])
        assert gguf.generate("The fox", 6, seed=3) == gguf.generate("The fox", 6, seed=3)
        likeliest = int(gguf.logits([gguf.bos, *gguf.tokenize("The fox")])[-1].argmax())
        assert gguf.generate("The fox", 1, temperature=0).strip() == gguf.decode([likeliest]).strip()
    theirs = _torch_logits(Path("merged_model"), [1, *ids])
    error = np.abs(ours - theirs).max() / theirs.std()
    assert error < {"F16": 0.01, "BF16": 0.05, "Q8_0": 0.3, "Q4_K_M": 1.2}[quant]
    if quant == "F16":
        assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


def _torch_logits(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).logits[0])


def test_a_gguf_that_does_not_write_like_the_model_is_not_named(config: Callable[..., ExportConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """The most common fault of converters: the rows of the queries and keys left in the wrong order; here, those of the head."""
    from papertune.export.source import TensorSource

    whole = TensorSource.rows

    def scrambled(self: TensorSource, name: str, first: int, last: int) -> np.ndarray:
        rows = whole(self, name, first, last)
        return rows[::-1].copy() if name == "lm_head.weight" and last - first == 3200 else rows

    with monkeypatch.context() as patched:
        patched.setattr("papertune.export.stream.SLAB", 3200 * 32)  # only the slabs that are written, not what they are compared with
        patched.setattr(TensorSource, "rows", scrambled)
        with pytest.raises(BadExport, match="does not write like the model"):
            run(config(verify=True))
    assert not Path("scientific-mistral.gguf").exists()
    assert "Verified" in dict(run(config(quant="Q8_0", verify=True)).summary)
    assert "Verified" not in dict(run(config(quant="Q6_K")).summary)


def test_an_adapter_of_another_base_is_found_by_what_it_does_to_the_text(config: Callable[..., ExportConfig], tmp_path: Path) -> None:
    base = open_base("tiny")
    foreign = random_adapter(base, tmp_path / "foreign", size=30)  # fits by its shapes, and says nothing of where it comes from
    with pytest.raises(BadAdapter, match=r"The adapter spoils tiny: .* without it"):
        run(config(lora_path=foreign, verify=True))
    assert not Path("scientific-mistral.gguf").exists()
    run(config(lora_path=random_adapter(base, tmp_path / "ours", size=30, provenance={"run": {"model": base.fingerprint()}}), verify=True))
    assert Path("scientific-mistral.gguf").exists()


def test_a_missing_gguf_is_told_by_the_checker(tmp_path: Path) -> None:
    with pytest.raises(BadGguf, match="There is no GGUF file"):
        load_gguf(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BadGguf):
        load_gguf(tmp_path / "bad.gguf")


@needs_llama
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells anonymous memory from mapped files")
def test_weights_are_not_laid_anew_in_memory_to_be_verified(config: Callable[..., ExportConfig], tmp_path: Path) -> None:
    wide = random_adapter(open_base(str(wide_model(tmp_path / "wide", tied=False))), tmp_path / "wide-lora", size=0.01)
    run(config(lora_path=wide))
    tensors = read_head(Path("scientific-mistral.gguf")).tensors
    four_bit = sum(tensor.size for tensor in tensors if tensor.type.name == "Q4_K" and "blk" in tensor.name)
    kept, anew = (_anonymous(repack) for repack in (False, True))
    assert kept < anew - four_bit // 2


def _anonymous(repack: bool) -> int:
    """Bytes of anonymous memory of a process with the GGUF open."""
    code = f"""if True:
        from pathlib import Path
        from papertune.llama import Gguf
        with Gguf(Path("scientific-mistral.gguf"), context=64, threads=1, repack={repack}) as gguf:
            gguf.losses([1, 5, 6, 7], 1)
            resident, files = map(int, Path("/proc/self/statm").read_text().split()[1:3])
            print(resident - files)"""
    environment = {**os.environ, "PYTHONPATH": str(Path(papertune.__file__).parents[1])}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return int(told.stdout) * mmap.PAGESIZE


@needs_llama
def test_a_version_of_llama_cpp_with_other_settings_verifies_nothing_and_says_so(
    config: Callable[..., ExportConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("papertune.llama._EXTRA_BUFFERS", 0)
    events: list[Event] = []
    run(config(verify=True), on_event=events.append)
    assert any(isinstance(event, Notice) and "not verified: This version of xllamacpp" in event.text for event in events)
    assert Path("scientific-mistral.gguf").exists()
