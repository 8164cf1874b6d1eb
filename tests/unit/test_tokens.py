"""Token counts that chunks are cut by: exact on ordinary text, never too low on any."""

from __future__ import annotations

import random
import string
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from papertune.base import open_base
from papertune.dataset import tokens
from papertune.dataset.tokens import TokenCounter
from papertune.tokenizer import Tokenizer, open_tokenizer
from tests.papers import invented

SHARED = Path(__file__).parents[3] / "shared" / "papers"
PIECES = [
    *string.ascii_letters, *string.digits, *string.punctuation, " ", " ", " ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "é", "ß", "Ω", "μ", "α",
    "–", "—", "’", "“", "…", "\u00a0", "\u2009", "\u200b", "\u00ad", "\ufb01", "▁", "▁▁", "e\u0301", "中", "ا", "😀", "\U0001d54f", "\x00", "\ufffd",
    "<s>", "</s>", "<unk>", "<0x0A>", "## ", "the", " of", "tion", "Å", "±", "×10", "−1", "°C",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(open_base("tiny").folder)


def fuzz(count: int) -> list[str]:
    draw = random.Random(11)
    return ["".join(draw.choices(PIECES, k=draw.randint(0, 12))) for _ in range(count)]


def texts() -> list[str]:
    papers = invented(count=20, seed=1)
    return papers + [path.read_text(encoding="utf-8") for path in sorted((SHARED / "truth").glob("*.json"))]


@pytest.mark.parametrize("strings", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_numbers_are_those_of_sentencepiece(tokenizer: Tokenizer, strings: int) -> None:
    reference = SentencePieceProcessor(model_file=str(open_base("tiny").folder / "tokenizer.model"))
    for text in [*texts(), *fuzz(strings)]:
        assert tokenizer.encode(text) == reference.encode(text)


def test_counts_are_exact_where_words_are_parted_by_single_spaces(tokenizer: Tokenizer) -> None:
    count = TokenCounter(tokenizer)
    for text in texts():
        assert count(" ".join(text.split())) == len(tokenizer.encode(" ".join(text.split())))
        for paragraph in text.split("\n\n"):
            assert count(f"A.\n\n{paragraph}") == len(tokenizer.encode(f"A.\n\n{paragraph}"))


def test_what_is_remembered_stays_small_and_changes_no_count(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    paragraphs = [text.split("\n\n") for text in invented(count=8, seed=2)]
    count = TokenCounter(tokenizer)
    costs = [[count(part) for part in paper] for paper in paragraphs]
    monkeypatch.setattr(tokens, "_WORDS", 50)
    monkeypatch.setattr(tokens, "_STRETCH", 1000)
    monkeypatch.setattr(tokens, "_BITS", 11)  # a paper has 550 to 850 different words; the table is emptied from 1024 on
    small = TokenCounter(tokenizer)
    for paper, cost in zip(paragraphs, costs, strict=True):
        assert [small(part) for part in paper] == cost
        text = "\n\n".join(paper)
        ends = np.cumsum([len(part) + 2 for part in paper]) - 2
        assert small.sentences(text, [end - len(part) for end, part in zip(ends, paper, strict=True)], ends.tolist()) == cost
        assert len(small._words) <= 50


def test_more_words_in_a_sentence_than_the_table_holds(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_BITS", 4)
    text = " ".join(string.ascii_letters)
    assert TokenCounter(tokenizer).sentences(text, [0], [len(text)]) == [len(tokenizer.encode(text))]


@pytest.mark.parametrize("strings", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_counts_are_never_too_low(tokenizer: Tokenizer, strings: int) -> None:
    count = TokenCounter(tokenizer)
    assert [text for text in fuzz(strings) if count(text) < len(tokenizer.encode(text))] == []
