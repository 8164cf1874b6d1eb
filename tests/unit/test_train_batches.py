"""Examples become sequences: loss on the text alone, an end only where one is, nothing lost, an order that only the seed decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papertune.errors import BadDataset
from papertune.tiny import tokenizer_bytes
from papertune.tokenizer import Tokenizer, open_tokenizer
from papertune.train.batches import Sequences, Stream, TokenSequence, read_sequences


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.model").write_bytes(tokenizer_bytes())
    return open_tokenizer(folder)


def read(tmp_path: Path, tokenizer: Tokenizer, *examples: dict[str, Any], longest: int = 64) -> Sequences:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return read_sequences(path, tokenizer, longest)


def test_begin_always_and_end_only_where_the_text_ends(tmp_path: Path, mistral: Tokenizer) -> None:
    going_on, ending = read(tmp_path, mistral, {"text": "Cells divide."}, {"text": "Cells divide.", "end": True}).items
    assert going_on.ids.tolist() == [mistral.bos, *mistral.encode("Cells divide.")]
    assert ending.ids.tolist() == [*going_on.ids.tolist(), mistral.eos]
    assert going_on.start == ending.start == 1
    assert going_on.bytes == 13


def test_loss_is_on_the_text_and_not_on_the_prompt(tmp_path: Path, mistral: Tokenizer) -> None:
    (sequence,) = read(tmp_path, mistral, {"prompt": "# Cells\n\n## Results\n\n", "text": "They divide."}).items
    assert mistral.decode(sequence.ids[1 : sequence.start].tolist()) == "# Cells\n\n## Results\n\n"
    assert mistral.decode(sequence.ids[sequence.start :].tolist()) == "They divide."
    assert sequence.ids[1:].tolist() == mistral.encode("# Cells\n\n## Results\n\nThey divide.")  # as a finished model will be prompted


def test_a_token_over_the_seam_belongs_to_the_text(tmp_path: Path, mistral: Tokenizer) -> None:
    (sequence,) = read(tmp_path, mistral, {"prompt": "photo", "text": "synthesis"}).items
    whole = mistral.encode("photosynthesis")
    assert sequence.ids[1:].tolist() == whole
    assert mistral.decode(whole[: sequence.start - 1]) in "photo"


@settings(deadline=None)
@given(words=st.integers(0, 300), prompt=st.integers(0, 60), longest=st.integers(16, 80), end=st.booleans())
def test_a_long_example_is_split_without_loss(
    tmp_path_factory: pytest.TempPathFactory, mistral: Tokenizer, words: int, prompt: int, longest: int, end: bool
) -> None:
    example = {"prompt": "# the title\n\n" * (prompt // 6), "text": "a cell divides, " * (words // 4), "end": end}
    data = read(tmp_path_factory.mktemp("data"), mistral, example, longest=longest)
    whole = mistral.encode(example["prompt"] + example["text"]) + ([mistral.eos] if end else [])
    text = [int(token) for item in data.items for token in item.ids[item.start :]]
    assert text == (whole[len(whole) - len(text) :] if example["text"] else [])
    assert all(len(item.ids) <= longest and item.targets > 0 for item in data.items)
    assert sum(item.bytes for item in data.items) == len(example["text"])
    assert data.split == (len(data) > 1)
    if len(data) > 1:
        sizes = [item.targets for item in data.items]
        assert max(sizes) - min(sizes) <= 1
        assert {tuple(item.ids[: item.start]) for item in data.items} == {tuple(data.items[0].ids[: data.items[0].start])}


def test_papers_are_counted_and_empty_texts_left_out(tmp_path: Path, mistral: Tokenizer) -> None:
    data = read(tmp_path, mistral, {"text": "A.", "paper": "p"}, {"text": "", "paper": "q"}, {"text": "B.", "paper": "p"})
    assert (len(data), data.examples, data.papers) == (2, 2, {"p", "q"})


def test_a_line_that_is_no_example_is_named(tmp_path: Path, mistral: Tokenizer) -> None:
    with pytest.raises(BadDataset, match="line 2"):
        read(tmp_path, mistral, {"text": "A."}, {"txt": "B."})


def stream(size: int, seed: int) -> Stream:
    import numpy as np

    items = tuple(TokenSequence(np.array([1, i], dtype=np.int32), 1, 1) for i in range(size))
    return Stream(Sequences(items, size, 0, frozenset()), seed)


def order(stream: Stream, position: int, count: int) -> list[int]:
    return [int(item.ids[1]) for item in stream.take(position, count)]


@given(size=st.integers(1, 50), seed=st.integers(0, 9), position=st.integers(0, 200), count=st.integers(1, 30))
def test_the_order_is_a_function_of_seed_and_place(size: int, seed: int, position: int, count: int) -> None:
    whole = order(stream(size, seed), 0, position + count)
    assert order(stream(size, seed), position, count) == whole[position:]
    for epoch in range((position + count) // size):
        assert sorted(whole[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_and_seeds_differ() -> None:
    first, second = order(stream(40, 0), 0, 40), order(stream(40, 0), 40, 40)
    assert first != second
    assert order(stream(40, 1), 0, 40) != first
