"""Tokens are those of the model's own SentencePiece file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papertune.errors import BadModel
from papertune.tiny import tokenizer_bytes
from papertune.tokenizer import Tokenizer, open_tokenizer


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.model").write_bytes(tokenizer_bytes())
    return open_tokenizer(folder)


def test_it_adds_no_begin_or_end(mistral: Tokenizer) -> None:
    assert (mistral.bos, mistral.eos, mistral.size) == (1, 2, 32000)
    assert mistral.encode("Hello world") == [22557, 1526]
    assert mistral.encode("") == []


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00▁"), max_size=200))
def test_any_text_comes_back(mistral: Tokenizer, text: str) -> None:
    assert mistral.decode(mistral.encode(text)) == text


def test_sentencepiece_wins_over_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_bytes())
    (tmp_path / "tokenizer.json").write_text("damaged")
    assert open_tokenizer(tmp_path).size == 32000


def test_json_is_read_where_there_is_nothing_else(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Writer
    from tokenizers import models, pre_tokenizers

    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "cells": 3, "divide": 4}
    writer = Writer(models.WordLevel(words, unk_token="<unk>"))
    writer.pre_tokenizer = pre_tokenizers.Whitespace()
    writer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>"}))
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.encode("cells divide") == [3, 4]
    assert (tokenizer.bos, tokenizer.eos, tokenizer.size) == (1, 2, 5)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00damaged")
    with pytest.raises(BadModel, match=name):
        open_tokenizer(tmp_path)


def test_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"tokenizer\.model"):
        open_tokenizer(tmp_path)
