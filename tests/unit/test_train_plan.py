"""``papertune plan``: arithmetic for a card that is not here, held against what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from papertune.cards import CARDS, Card, card_called
from papertune.config import SEVEN_PROJECTIONS, PlanConfig
from papertune.device import GIB, Gpu
from papertune.errors import BadValue, UnsupportedModel
from papertune.events import Event, Notice
from papertune.train.stage import run
from tests.training import write_dataset

SLICE = Card("8 multiprocessors of an H200", 989 * 8 / 132, 8, 510, 50)


def test_cards_are_found_by_the_names_their_drivers_give() -> None:
    names = {
        "NVIDIA GeForce RTX 3070 Laptop GPU": "RTX 3070 Laptop",
        "NVIDIA GeForce RTX 3070": "RTX 3070",
        "NVIDIA GeForce RTX 3060 Ti": "RTX 3060 Ti",
        "NVIDIA GeForce RTX 5060 Laptop GPU": "RTX 5060 Laptop",
        "NVIDIA A100-SXM4-40GB": "A100",
        "rtx 3070": "RTX 3070",
        "rtx3070": "RTX 3070",
        "3070": "RTX 3070",
        "3070ti": "RTX 3070 Ti",
        "RTX3070Ti Laptop": "RTX 3070 Ti Laptop",
        "NVIDIA GeForce RTX 3060 Laptop GPU": "RTX 3060 Laptop",
        "NVIDIA GeForce RTX 4070 Ti SUPER": "RTX 4070 Ti Super",
        "NVIDIA H100 80GB HBM3": "H100",
        "Tesla V100-SXM2-16GB": "V100",
    }
    for given, name in names.items():
        found = card_called(given)
        assert found is not None
        assert found.name == name
    assert card_called("Radeon") is None
    assert all(card_called(card.name) == card for card in CARDS)


@pytest.mark.parametrize(
    "name",
    [
        "RTX 3050 6GB Laptop", "RTX 5090 Laptop GPU", "RTX 3060 SUPER",
        "NVIDIA GeForce RTX 3070 with Max-Q Design", "RTX 3070 Mobile", "RTX 3070 Max Q",
        "NVIDIA GeForce RTX 4090 D", "L40", "RTX", "",
    ],
)  # fmt: skip
def test_a_card_is_not_taken_for_another_of_the_same_number(name: str) -> None:
    assert card_called(name) is None


def test_the_memory_that_a_name_tells_is_the_cards() -> None:
    told = [
        ("A100 80GB", "A100", 80), ("NVIDIA A100-SXM4-80GB", "A100", 80), ("V100 32 GB", "V100", 32), ("RTX 4060 Ti 16GB", "RTX 4060 Ti", 16),
        ("RTX 3050 6GB", "RTX 3050", 6),
    ]  # fmt: skip
    for name, same, memory in told:
        known = card_called(same)
        assert known is not None
        assert card_called(name) == replace(known, memory=memory)


def test_the_memory_of_the_card_that_is_here_is_what_its_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Gpu("NVIDIA GeForce RTX 4060 Ti", 16380 << 20, 16000 << 20, "550", "8.9")
    monkeypatch.setattr("papertune.train.forecast.gpus", lambda: (here,))
    assert "RTX 4060 Ti, 16 GiB" in plan(model="tiny", train_file=tmp_path / "none")["Card"]


def test_an_unknown_card_is_refused_with_those_of_its_number(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="RTX 4060 Super is not a known card") as caught:
        plan(model="tiny", gpu="RTX 4060 Super", train_file=tmp_path / "none")
    assert caught.value.remedy == "Choose one of: RTX 4060, RTX 4060 Laptop, RTX 4060 Ti."


def test_speed_agrees_with_the_slice_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/experiments.md: 1,677 tokens/s of four sequences of 512, 1,583 with no weights streamed; 16,357 on the whole card, the usual stack 423."""
    from papertune.train import arithmetic
    from papertune.train.arithmetic import outlook
    from papertune.train.fast.shape import Shape

    mistral = Shape(32, 4096, 14336, 32, 8, 128, 32000, 1e-5, 1e4, 4096, False)
    for memory, measured in ((16, 1583), (128, 1677)):
        monkeypatch.setattr(arithmetic, "memory", lambda memory=memory: memory * GIB)
        fast = outlook(SLICE, mistral, "", 16, SEVEN_PROJECTIONS, [512] * 4, 1)
        assert fast.engine == "fast"
        assert fast.tokens_per_second == pytest.approx(measured, rel=0.05)
        assert fast.fits
        assert fast.gpu == pytest.approx(6.74 * GIB, rel=0.03)
    whole = card_called("H200")
    assert whole is not None
    assert outlook(whole, mistral, "", 16, SEVEN_PROJECTIONS, [512] * 4, 1).tokens_per_second == pytest.approx(16_357, rel=0.1)
    slow = outlook(SLICE, mistral, "no reason", 16, SEVEN_PROJECTIONS, [512] * 4, 1)
    assert slow.engine == "reference"
    assert slow.tokens_per_second == pytest.approx(423, rel=0.05)
    assert slow.gpu == pytest.approx(4.895 * GIB, rel=0.07)  # docs/memory-budget.md, measured


def test_a_step_too_long_for_the_card_is_planned_in_parts() -> None:
    from papertune.train.arithmetic import outlook
    from papertune.train.fast.shape import Shape

    mistral = Shape(32, 4096, 14336, 32, 8, 128, 32000, 1e-5, 1e4, 4096, False)
    one, four = (outlook(SLICE, mistral, "", 16, SEVEN_PROJECTIONS, [4096] * count, 1) for count in (1, 4))
    assert four.fits
    assert four.gpu <= four.available
    assert four.tokens_per_second == pytest.approx(one.tokens_per_second, rel=0.1), "four parts take four times as long"


def plan(said: list[Event] | None = None, **settings: object) -> dict[str, str]:
    return dict(run(PlanConfig(**settings), on_event=(said if said is not None else []).append).summary)  # type: ignore[arg-type]


def test_a_plan_needs_neither_model_nor_data_nor_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said: list[Event] = []
    lines = plan(said, gpu="RTX 3070", train_file=tmp_path / "train.jsonl")
    assert "estimate" in lines["Card"]
    assert lines["Engine"] == "fast"
    assert "of 7.2 GiB" in lines["GPU memory"]
    assert "Time" not in lines
    text = " ".join(event.text for event in said if isinstance(event, Notice))
    assert "taken as that of Mistral-7B-v0.1" in text
    assert "no examples yet" in text


def test_a_plan_for_the_user_s_own_data_tells_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERTUNE_CACHE", str(tmp_path / "cache"))
    data = write_dataset(tmp_path / "data")
    lines = plan(model="tiny", gpu="RTX 3070", train_file=data / "train.jsonl")
    assert lines["Steps"] == "12 of 4 sequences"
    assert "seconds" in lines["Time"]


def test_too_large_a_model_is_told_with_the_advice_and_an_unknown_card_or_model_refused(tmp_path: Path) -> None:
    shape = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8}
    known = {"architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "rms_norm_eps": 1e-5}
    (tmp_path / "config.json").write_text(json.dumps({**known, **shape}))
    said: list[Event] = []
    lines = plan(said, model=str(tmp_path), gpu="RTX 3070", train_file=tmp_path / "none")
    assert "not enough" in lines["GPU memory"]
    assert any(isinstance(event, Notice) and "--max-seq-len 256" in event.text for event in said)
    with pytest.raises(BadValue, match="RTX 3070"):
        plan(gpu="Voodoo 2")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Other"]}))
    with pytest.raises(UnsupportedModel):
        plan(model=str(tmp_path))


def test_a_plan_needs_no_library_of_training_but_torch(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['triton', 'bitsandbytes', 'transformers', 'peft', 'accelerate']))"
    code = f"{blocked}; from papertune.cli import main; main(['plan', '--gpu', 'RTX 3070'])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "Tokens a second" in answer.stdout
