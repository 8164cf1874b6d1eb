"""What sentences cost, counted all at once, against each counted by itself."""

from __future__ import annotations

import random

import pytest

from papertune.base import open_base
from papertune.dataset.flow import flow_of
from papertune.dataset.read import parse
from papertune.dataset.tokens import TokenCounter
from papertune.tokenizer import Tokenizer, open_tokenizer
from tests.papers import invented

STRANGE = ["naïve", "µg", "中文字", "😀", "a\u00a0b", "\x00", "x  y", "\t", "ﬁ", "e\u0301", "▁", "z" * 40]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(open_base("tiny").folder)


def papers() -> list[str]:
    draw = random.Random(3)
    plain = invented(count=10, seed=9)
    strange = [" ".join(draw.choice(STRANGE) if draw.random() < 0.2 else word for word in text.split(" ")) for text in plain]
    return [*plain, *strange, "One. Two.", "x", "# Title", "", "".join(plain) * 3]


def test_costs_are_those_of_each_sentence_by_itself(tokenizer: Tokenizer) -> None:
    count = TokenCounter(tokenizer)
    for text in papers():
        flow = flow_of(parse(text)[1], count, 400, 100)
        assert flow.tokens == [count(flow.text[a:b]) for a, b in zip(flow.starts, flow.ends, strict=True)]
        assert all(cost <= 100 for cost in flow.tokens)


def test_forgetting_words_changes_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [parse(text)[1] for text in papers()]
    expected = [flow_of(blocks, TokenCounter(tokenizer), 400, 100).tokens for blocks in texts]
    monkeypatch.setattr("papertune.dataset.tokens._BITS", 14)
    count = TokenCounter(tokenizer)
    assert [flow_of(blocks, count, 400, 100).tokens for blocks in texts] == expected
