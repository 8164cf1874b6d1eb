"""Copies are found however they were damaged; unrelated papers are left alone."""

from __future__ import annotations

import random

import numpy as np
import pytest

from papertune.dataset.duplicates import Kinship, kinship, repeated_paragraphs
from papertune.dataset.fingerprints import SHINGLE, letters, sample, shingles
from tests.papers import invented

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def compare(*texts: str) -> Kinship:
    reduced = [letters(text) for text in texts]
    return kinship([sample(text) for text in reduced], [len(text) for text in reduced], lambda k: np.unique(shingles(reduced[k])))


def misread(text: str, share: float, draw: random.Random) -> str:
    return "".join(draw.choice(ALPHABET) if c.isalpha() and draw.random() < share else c for c in text)


def edited(text: str, share: float, draw: random.Random) -> str:
    words = text.split(" ")
    return " ".join(draw.choice(words) if draw.random() < share else word for word in words)


@pytest.fixture(scope="module")
def papers() -> list[str]:
    return invented(count=60, seed=4)


@pytest.mark.parametrize("damage", ["none", "misread", "edited", "shuffled", "half", "case and spaces"])
def test_a_damaged_copy_is_dropped_for_the_longer_paper(papers: list[str], damage: str) -> None:
    draw = random.Random(damage)
    for k in range(0, 60, 4):
        text = papers[k]
        copy = {
            "none": text,
            "misread": misread(text, 0.01, draw),
            "edited": edited(text, 0.05, draw),
            "shuffled": "\n\n".join(draw.sample(text.split("\n\n"), text.count("\n\n") + 1)),
            "half": text[: len(text) // 2],
            "case and spaces": text.upper().replace(" ", "  \n"),
        }[damage]
        found = compare(*papers, copy)
        assert [{c.paper, c.kept} for c in found.copies] == [{k, 60}]
        assert found.group[k] == found.group[60]


def test_unrelated_papers_are_neither_copies_nor_related(papers: list[str]) -> None:
    found = compare(*papers)
    assert found.copies == []
    assert found.group == list(range(60))


def test_papers_with_a_common_part_are_related_and_both_kept(papers: list[str]) -> None:
    found = compare(papers[0], papers[1], papers[2] + papers[0][: len(papers[0]) // 4])
    assert found.copies == []
    assert found.group == [0, 1, 0]


def test_of_many_copies_one_is_kept(papers: list[str]) -> None:
    found = compare(*papers[:10], *[papers[3]] * 40)
    assert [c.paper for c in found.copies] == list(range(10, 50))
    assert {c.kept for c in found.copies} == {3}
    assert {c.jaccard for c in found.copies} == {1.0}


def test_texts_too_short_for_a_shingle_are_nobodys_copy() -> None:
    assert compare("", "abc", "abc").copies == []
    assert len(shingles(b"a" * SHINGLE)) == 1


def test_repeated_paragraphs_stay_once_and_boilerplate_never() -> None:
    sizes = {1: 90, 2: 900, 3: 900}  # a licence, a method, a paper's own
    papers = [[1, 2], [3, 2, 1, 1], [1, 2]]
    drops = repeated_paragraphs([np.array(p, np.uint64) for p in papers], [np.array([sizes[h] for h in p], np.uint32) for p in papers])
    assert drops == [{1: "boilerplate"}, {2: "repeated", 1: "boilerplate"}, {1: "boilerplate", 2: "repeated"}]


def test_pairs_are_the_same_however_many_shingles_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    papers = invented(count=30, seed=4)
    texts = [*papers, *(misread(text, 0.01, random.Random(1)) for text in papers[:5]), *(text[: len(text) // 3] for text in papers[5:10])]
    whole = compare(*texts)
    monkeypatch.setattr("papertune.dataset.duplicates._AT_ONCE", 50)
    assert compare(*texts) == whole
    assert len(whole.copies) == 10
