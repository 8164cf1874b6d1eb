"""Training on a CUDA GPU: the same guarantees as on a CPU. Opt in with ``-m gpu``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from papertune.adapter import open_adapter
from papertune.errors import Interrupted, OutOfMemory
from papertune.events import Event, Notice, Unit
from papertune.train.stage import run
from tests.stages.test_train import wider_model
from tests.training import adapter_hash, losses, settings, write_dataset

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
    pytest.mark.filterwarnings("ignore:.*not aligned for fast kernel"),  # bitsandbytes on the tiny model, whose rows of 32 are no whole block
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def test_a_stopped_run_goes_on_exactly(data: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    run(settings(data, tmp_path / "whole"), on_event=said.append)
    assert any(isinstance(event, Notice) and "bfloat16" in event.text for event in said)

    def stop(event: Event) -> None:
        if isinstance(event, Unit) and event.figures and event.done == 7:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(settings(data, tmp_path / "stopped"), on_event=stop)
    run(settings(data, tmp_path / "stopped"))
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert adapter_hash(tmp_path / "stopped" / "final") == adapter_hash(tmp_path / "whole" / "final")


def test_the_fast_engine_trains_like_the_reference_and_goes_on_exactly(data: Path, tmp_path: Path) -> None:
    model = wider_model(tmp_path / "model")
    common = {"model": str(model), "lora_dropout": 0}
    run(settings(data, tmp_path / "reference", engine="reference", **common))
    said: list[Event] = []
    run(settings(data, tmp_path / "fast", **common), on_event=said.append)
    assert any(isinstance(event, Notice) and "fast engine" in event.text for event in said)
    fast, reference = losses(tmp_path / "fast"), losses(tmp_path / "reference")
    assert list(fast.values()) == pytest.approx(list(reference.values()), rel=5e-3)
    run(settings(data, tmp_path / "fast", resume=str(tmp_path / "fast" / "checkpoint-8"), **common))
    assert losses(tmp_path / "fast") == fast


def test_another_amount_of_free_memory_changes_no_bit(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run may find the card fuller: other plans, the same losses."""
    from papertune.train.fast.budget import Budget
    from papertune.train.fast.plan import Plan

    model = wider_model(tmp_path / "model")
    run(settings(data, tmp_path / "out", model=str(model)))
    whole = losses(tmp_path / "out")
    for plan in (Plan(), Plan(offload=2), Plan(keep=1, offload=1), Plan(keep=2), Plan(keep=1, offload=1, stream_every=1)):
        monkeypatch.setattr(Budget, "plan", lambda *_, plan=plan: plan)
        run(settings(data, tmp_path / "out", model=str(model), resume=str(tmp_path / "out" / "checkpoint-8")))
        assert losses(tmp_path / "out") == whole


def test_a_system_that_pins_no_more_memory_is_gone_on_with(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux under Windows does after a while; it is asked once."""
    from papertune.train.fast import host
    from papertune.train.fast.budget import Budget
    from papertune.train.fast.plan import Plan

    model = wider_model(tmp_path / "model")
    run(settings(data, tmp_path / "all", model=str(model)))
    pin, pinned = host._pin, []

    def some(count: int, dtype: Any) -> Any:
        pinned.append(count)
        if len(pinned) > 6:
            raise host.NoHostMemory("as if")
        return pin(count, dtype)

    monkeypatch.setattr(host, "_pin", some)
    monkeypatch.setattr(Budget, "plan", lambda *_: Plan() if len(pinned) > 6 else Plan(keep=1, offload=1, stream_every=1))
    run(settings(data, tmp_path / "some", model=str(model)))
    assert len(pinned) == 7
    assert losses(tmp_path / "some") == losses(tmp_path / "all")


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_card_that_becomes_too_full_is_gone_on_with(engine: str, data: Path, tmp_path: Path) -> None:
    """Another program takes nearly all of the memory that is free after the second step; the run goes on with less at a time."""
    model = wider_model(tmp_path / "model")
    common = {"model": str(model), "lora_dropout": 0, "batch_size": 8, "grad_accum": 1, "max_steps": 3, "engine": engine}
    run(settings(data, tmp_path / "free", **common))
    said: list[Event] = []

    def fill(event: Event) -> None:
        said.append(event)
        if isinstance(event, Unit) and event.figures and event.done == 1:
            torch.cuda.empty_cache()
            _, total = torch.cuda.mem_get_info()
            room = (24 << 20) if engine == "fast" else (40 << 20)
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + room) / total)

    try:
        run(settings(data, tmp_path / "full", **common), on_event=fill)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any(isinstance(event, Notice) and "Training goes on with less" in event.text for event in said)
    assert list(losses(tmp_path / "full").values()) == pytest.approx(list(losses(tmp_path / "free").values()), rel=5e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Triton brings a compiler")
@pytest.mark.parametrize(("engine", "ends"), [("auto", 0), ("fast", 2)])
def test_without_a_c_compiler_triton_is_not_used(engine: str, ends: int, data: Path, tmp_path: Path) -> None:
    model = wider_model(tmp_path / "model")
    words = ["--model", model, "--train-file", data / "train.jsonl", "--val-file", data / "val.jsonl", "--output-dir", tmp_path / "out"]
    words += ["--max-steps", 1, "--sample-tokens", 0, "--max-seq-len", 64, "--engine", engine]
    environment = {key: value for key, value in os.environ.items() if key != "CC"} | {"PATH": "", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "papertune", "train", *map(str, words)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == ends, answer.stderr
    assert "Triton does not work here (it needs a C compiler and Python's headers" in answer.stderr
    assert ("with the reference engine, since" in answer.stderr) == (engine == "auto")


def test_float16_on_cards_without_bfloat16(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from papertune.train import model

    run(settings(data, tmp_path / "bfloat16"))
    monkeypatch.setattr(model, "choose_device", lambda: model.Device("cuda", torch.float16, "a card without bfloat16"))
    run(settings(data, tmp_path / "float16"))
    wide, narrow = (open_adapter(tmp_path / kind / "final").provenance["bits_per_byte"]["after"] for kind in ("bfloat16", "float16"))
    assert narrow == pytest.approx(wide, abs=0.02)
    checkpoint = json.loads((tmp_path / "float16" / "checkpoint-12" / "checkpoint.json").read_text())
    assert checkpoint["optimizer"]["scaler"]["scale"] > 1


def test_a_full_card_is_said_with_the_advice(data: Path, tmp_path: Path) -> None:
    model = wider_model(tmp_path / "model")  # the tiny one fits into what earlier tests have left in the allocator
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(OutOfMemory, match="--max-seq-len 256"):
            run(settings(data, tmp_path, model=str(model)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
