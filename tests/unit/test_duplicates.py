"""Copies are found however they were damaged; unrelated papers are left alone."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest

from papertune.dataset.duplicates import Kinship, kinship, repeated_paragraphs
from papertune.dataset.fingerprints import SHINGLE, letters, paragraph_hash, sample, shingles
from papertune.dataset.partitions import Partitions
from papertune.dataset.scratch import Scratch
from tests.papers import invented

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def compare(*texts: str) -> Kinship:
    reduced = [letters(text) for text in texts]
    with tempfile.TemporaryDirectory() as folder, Scratch(Path(folder)) as scratch:
        samples = Partitions(scratch)
        for number, text in enumerate(reduced):
            samples.add(sample(text), number)
        return kinship(samples, {number: len(text) for number, text in enumerate(reduced)}, lambda k: np.unique(shingles(reduced[k])))


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
    assert found.group == {k: k for k in range(60)}


def test_papers_with_a_common_part_are_related_and_both_kept(papers: list[str]) -> None:
    found = compare(papers[0], papers[1], papers[2] + papers[0][: len(papers[0]) // 4])
    assert found.copies == []
    assert found.group == {0: 0, 1: 1, 2: 0}


def test_of_many_copies_one_is_kept(papers: list[str]) -> None:
    found = compare(*papers[:10], *[papers[3]] * 40)
    assert [c.paper for c in found.copies] == list(range(10, 50))
    assert {c.kept for c in found.copies} == {3}
    assert {c.jaccard for c in found.copies} == {1.0}


def test_texts_too_short_for_a_shingle_are_nobodys_copy() -> None:
    assert compare("", "abc", "abc").copies == []
    assert len(shingles(b"a" * SHINGLE)) == 1


def test_repeated_paragraphs_stay_once_and_boilerplate_never(tmp_path: Path) -> None:
    licence, method, own = (paragraph_hash(text) for text in (b"licence" * 9, b"method" * 90, b"own" * 300))
    papers = {7: [licence, method], 2: [method, licence], 3: [own, method, licence, licence], 5: [method]}
    with Scratch(tmp_path) as scratch:
        paragraphs = Partitions(scratch)
        for number, hashes in papers.items():
            paragraphs.add(np.array(hashes, np.uint64), number)
        drops = repeated_paragraphs(paragraphs, [2, 3, 7])
    assert drops == {2: {licence: "boilerplate"}, 3: {method: "repeated", licence: "boilerplate"}, 7: {licence: "boilerplate", method: "repeated"}}


def test_papers_that_do_not_count_change_nothing(papers: list[str], tmp_path: Path) -> None:
    texts = [letters(text) for text in (papers[0], papers[0], papers[0][: len(papers[0]) // 2])]
    with Scratch(tmp_path) as scratch:
        samples = Partitions(scratch)
        for number in (2, 0, 1):
            samples.add(sample(texts[number]), number)
        found = kinship(samples, {1: len(texts[1]), 2: len(texts[2])}, lambda k: np.unique(shingles(texts[k])))
    assert [(c.paper, c.kept) for c in found.copies] == [(2, 1)]
    assert found.group == {1: 1, 2: 1}


def test_pairs_are_the_same_however_many_shingles_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    papers = invented(count=30, seed=4)
    texts = [*papers, *(misread(text, 0.01, random.Random(1)) for text in papers[:5]), *(text[: len(text) // 3] for text in papers[5:10])]
    whole = compare(*texts)
    monkeypatch.setattr("papertune.dataset.partitions._AT_ONCE", 50)
    assert compare(*texts) == whole
    assert len(whole.copies) == 10
