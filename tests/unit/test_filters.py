"""What is dropped, and why."""

from __future__ import annotations

import pytest

from papertune.dataset.filters import REASONS, sift
from papertune.dataset.languages import language_of
from papertune.dataset.read import Block

ENGLISH = "The samples were taken in the morning and kept cold until they were used, as is usual in this field of work. " * 4
GERMAN = "Die Proben wurden am Morgen genommen und kalt gehalten, bis sie verwendet wurden, wie es in diesem Fach üblich ist. " * 4
FRENCH = "Les échantillons ont été prélevés le matin et gardés au froid dans une boîte qui est utilisée pour cette étude. " * 4


def reasons(*paragraphs: str) -> dict[str, int]:
    return dict(sift([Block(text, 0, len(text)) for text in (ENGLISH, *paragraphs)]).dropped)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Page 3 of 12", "leftover"),
        ("https://doi.org/10.1000/xyz", "leftover"),
        ("Table 2", "leftover"),
        ("3.5 4.1 2.2 0.01 17 18 19 3.3 2.0 5.5 9 8 7 6 12 13 14", "leftover"),
        ("Sham 3.5 0.4 1.86 0.17 0.2 0.01 Control 9.80 0.50 1.45 0.21 3.0 0.20 Low 4.4 0.28 7.7 0.63 0.8 0.04 High 6.4 0.62 1.80 0.07", "garbled"),
        ("(cid:12)(cid:33)(cid:9) of the " * 20, "garbled"),
        ("T h e s a m p l e s w e r e t a k e n i n t h e m o r n i n g.", "garbled"),
        ("Thesampleswere" * 40, "garbled"),
        ("This is an open access article distributed under the terms of the Creative Commons Attribution License.", "notice"),
        ("© 2016 The Authors. Published by Someone.", "notice"),
        (GERMAN, "language"),
        (FRENCH, "language"),
    ],
)
def test_dropped_for_a_reason(text: str, reason: str) -> None:
    assert reasons(text) == {reason: 1}
    assert reason in REASONS


@pytest.mark.parametrize(
    "text",
    [
        "Short but whole.",
        "The LOD was 0.34 μg/L and the LOQ was 1.12 μg/L for iron in all of the samples.",
        "Code was released under a Creative Commons licence. " + ENGLISH * 2,
        "Σ_i x_i = 1 holds for all compositions that were looked at here.",
    ],
)
def test_kept(text: str) -> None:
    assert reasons(text) == {}


LANGUAGES = [(ENGLISH, "English"), (GERMAN, "German"), (FRENCH, "French"), ("", ""), ("Образцы были взяты утром", "Russian")]


@pytest.mark.parametrize(("text", "language"), LANGUAGES)
def test_languages(text: str, language: str) -> None:
    assert language_of(text) == language
