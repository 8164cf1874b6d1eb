"""Where sentences end, by examples of what papers write."""

from __future__ import annotations

import pytest

from papertune.dataset.sentences import sentence_ends


def split(text: str) -> list[str]:
    ends = sentence_ends(text)
    return [text[a:b].strip() for a, b in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize(
    "text",
    [
        "As shown by Smith et al. (2004), the yield rose.",
        "As shown by Smith et al. [12] the yield rose.",
        "The curve (Fig. 3) is flat, see also Eq. 4 and Figs. 5 and 6.",
        "Cells of E. coli and S. aureus were grown.",
        "It was bought from J. R. Miller, Sigma-Aldrich Co. Ltd. in Germany.",
        "The mean was 3.5 mg and the range 0.1 M to 2.5 M NaCl.",
        "Several species, e.g. Ocimum spp. and O. basilicum var. Purple, were used.",
        "They were kept at 20 °C vs. Li as before.",
        "see Figure 3(Fig. 3) for it",
    ],
)
def test_one_sentence_stays_whole(text: str) -> None:
    assert split(text) == [text]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The yield rose.", "It fell later."),
        ("This was reported by Smith et al.", "However, it was not confirmed."),
        ("It was found in cells.12,13", "The others had none."),
        ("It was found in cells [12].", "The others had none."),
        ("Was it there?", "No."),
        ("It was kept at 3 V.", "Cyclic voltammetry followed."),
        ("Others had more.", "α-Pinene was absent."),
        ("Others had more.", "p-Cymene was absent."),
        ('He called it "new."', "It was not."),
        ("(It was not.)", "Others were."),
        ("There were 12.", "3 of them died."),
    ],
)
def test_two_sentences_are_parted(first: str, second: str) -> None:
    assert split(f"{first} {second}") == [first, second]


def test_the_last_end_is_the_texts_end_without_white_space() -> None:
    assert sentence_ends("No stop here  ") == [12]
    assert sentence_ends("   ") == []
