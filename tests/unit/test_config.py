"""Where a setting comes from, and what is said about a bad one."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from papertune.config import ExtractConfig, PrepareConfig, TrainConfig, WriteConfig, convert, hints_of
from papertune.errors import BadValue, UnknownSetting


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    toml = tmp_path / "papertune.toml"
    toml.write_text('[train]\nlr = 1e-3\nepochs = 5\nmax-seq-len = 128\nmodel = "tiny"\n')
    environ = {"PAPERTUNE_TRAIN_EPOCHS": "6", "PAPERTUNE_TRAIN_MAX_SEQ_LEN": "256"}
    config = TrainConfig.resolve({"max_seq_len": 1024}, defaults={"lr": 1e-5, "grad_accum": 8}, environ=environ, toml=toml)
    assert (config.max_seq_len, config.epochs, config.lr, config.grad_accum, config.model, config.batch_size) == (1024, 6, 1e-3, 8, "tiny", 1)


def test_lists_come_from_every_source(tmp_path: Path) -> None:
    toml = tmp_path / "papertune.toml"
    toml.write_text('[extract]\ninput_dir = ["a", "b"]\n')
    assert ExtractConfig.resolve({}, environ={}, toml=toml).input_dir == (Path("a"), Path("b"))
    environ = {"PAPERTUNE_TRAIN_TARGET_MODULES": "q_proj, v_proj"}
    assert TrainConfig.resolve({}, environ=environ, toml=tmp_path / "absent").target_modules == ("q_proj", "v_proj")


def test_a_heading_may_have_a_comma(tmp_path: Path) -> None:
    (spec,) = (spec for spec in fields(WriteConfig) if spec.name == "sections")
    given = convert(spec, hints_of(WriteConfig)["sections"], ("Soil, water and roots", "Results"), "--sections")
    assert given == ("Soil, water and roots", "Results")
    environ = {"PAPERTUNE_WRITE_SECTIONS": "Soil, water and roots\nResults"}
    assert WriteConfig.resolve({}, environ=environ, toml=tmp_path / "absent").sections == given


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nlr = 'fast'\n", ["[train] lr", "'fast'", "number"]),
        ("[train]\nepochs = 1.5\n", ["epochs", "whole number"]),
        ("[train]\nbatch_size = true\n", ["batch_size", "whole number"]),
        ("[train\n", ["papertune.toml", "cannot be read"]),
        ("train = 'x'\n", ["train is not a table", "[train]"]),
        ("[[train]]\n", ["train is not a table"]),
        ("[train]\ntarget-modules = [1]\n", ["target-modules", "a list"]),
    ],
)
def test_a_bad_value_in_the_file_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    toml = tmp_path / "papertune.toml"
    toml.write_text(text)
    with pytest.raises(BadValue) as error:
        TrainConfig.resolve({}, environ={}, toml=toml)
    assert all(word in str(error.value) for word in words)


def test_a_flag_that_says_no_is_known_by_its_name_too(tmp_path: Path) -> None:
    toml = tmp_path / "papertune.toml"
    toml.write_text("[extract]\nno-resume = true\n")
    assert ExtractConfig.resolve({}, environ={}, toml=toml).resume is False
    assert ExtractConfig.resolve({}, environ={"PAPERTUNE_EXTRACT_NO_RESUME": "0"}, toml=toml).resume is True


def test_a_file_as_windows_editors_write_it_is_read_and_home_is_known(tmp_path: Path) -> None:
    toml = tmp_path / "papertune.toml"
    toml.write_text('[extract]\noutput-dir = "~/texts"\n', encoding="utf-8-sig")
    assert ExtractConfig.resolve({}, environ={}, toml=toml).output_dir == Path.home() / "texts"


@pytest.mark.parametrize("text", ["[tarin]\nlr = 1e-4\n", "[train]\nlearning_rate = 1e-4\n"])
def test_an_unknown_name_in_the_file_is_refused(tmp_path: Path, text: str) -> None:
    toml = tmp_path / "papertune.toml"
    toml.write_text(text)
    with pytest.raises(UnknownSetting):
        TrainConfig.resolve({}, environ={}, toml=toml)


def test_a_bad_environment_variable_is_named() -> None:
    with pytest.raises(BadValue, match="PAPERTUNE_TRAIN_EPOCHS: 'two'"):
        TrainConfig.resolve({}, environ={"PAPERTUNE_TRAIN_EPOCHS": "two"}, toml=Path("absent.toml"))


@pytest.mark.parametrize("values", [{"lr": 0.0}, {"epochs": 0}, {"lora_dropout": 1.0}, {"max_seq_len": 1}, {"target_modules": ()}])
def test_values_out_of_range_are_refused_however_the_config_is_made(values: dict[str, object]) -> None:
    with pytest.raises(BadValue):
        TrainConfig(**values)  # type: ignore[arg-type]


def test_an_overlap_as_long_as_the_chunk_is_refused() -> None:
    with pytest.raises(BadValue, match="--overlap 500"):
        PrepareConfig(overlap=500, chunk_size=500)
