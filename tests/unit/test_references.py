"""Reference lists that extraction left in."""

from __future__ import annotations

import pytest

from papertune.dataset.read import Block
from papertune.dataset.references import reference_blocks

PROSE = (
    "The samples were taken in the morning and were kept cold until they were used, as is usual in this field (Miller et al., 2004; Jones, "
    "2010). This was repeated on three days, and the results are given as means of all that have been measured."
)
ENTRIES = [
    "1. Miller A, Jones B, Smith CD. Measuring small rivers in winter. J Hydrol 2004, 151(4):247-251.",
    "[2] P. Adams and D. Brown, “On the depth of lakes,” Limnology, vol. 7, no. 4, pp. 95–105, 2010.",
    "Young, E. F., & Hall, G. (1999). A history of water. Water Research, 42, 278–286. https://doi.org/10.1000/xyz",
    "4. Green H.; White K. Rain and soil. Soil Sci. 2017, 22, 70. [CrossRef] [PubMed]",
]


def texts(*parts: str) -> list[Block]:
    return [Block(p.removeprefix("# "), 0, 0, int(p.startswith("# "))) for p in parts]


@pytest.mark.parametrize("heading", ["# References", "References", "# 5. REFERENCES", "# Literature cited", "# Bibliography"])
def test_what_stands_under_the_heading_is_taken(heading: str) -> None:
    assert reference_blocks(texts(PROSE, heading, *ENTRIES)) == {1, 2, 3, 4, 5}


def test_text_after_the_list_stays() -> None:
    assert reference_blocks(texts(PROSE, "# References", *ENTRIES, "# Appendix", PROSE)) == {1, 2, 3, 4, 5}
    assert reference_blocks(texts(PROSE, "# References", *ENTRIES, PROSE, PROSE)) == {1, 2, 3, 4, 5}


def test_a_list_without_heading_is_taken_with_broken_entries_in_it() -> None:
    assert reference_blocks(texts(PROSE, ENTRIES[0], ENTRIES[1], "and others", *ENTRIES[2:])) == {1, 2, 3, 4, 5}


def test_a_list_run_together_in_one_block_is_taken() -> None:
    assert reference_blocks(texts(PROSE, " ".join(ENTRIES * 2))) == {1}


def test_running_text_that_cites_is_left_alone() -> None:
    assert reference_blocks(texts("# Introduction", PROSE, PROSE, PROSE, "# Methods", PROSE)) == set()


def test_a_single_entry_in_the_text_is_left_alone() -> None:
    assert reference_blocks(texts(PROSE, ENTRIES[0], PROSE)) == set()
