"""Training on a CUDA GPU: the same guarantees as on a CPU. Opt in with ``-m gpu``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from papertune.adapter import open_adapter
from papertune.errors import Interrupted, OutOfMemory
from papertune.events import Event, Notice, Unit
from papertune.train.stage import run
from tests.stages.test_train import wider_model
from tests.training import adapter_hash, losses, settings, write_dataset

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")]


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
        if isinstance(event, Unit) and event.done == 7:
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
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(OutOfMemory, match="--max-seq-len 256"):
            run(settings(data, tmp_path))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
