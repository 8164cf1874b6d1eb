"""Headings as prompts and outlines name them: without their number, and with every other number they have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertune.dataset.openings import plain


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("2.1 CO2 fluxes and PM2.5 exposure", "CO2 fluxes and PM2.5 exposure"),
        ("2.1. pH of the soil", "pH of the soil"),
        ("3 Results", "Results"),
        ("4. in vitro", "in vitro"),
        ("1) Surgical procedure", "Surgical procedure"),
        ("ii) Myocyte Bcl-2 protein expression", "Myocyte Bcl-2 protein expression"),
        ("1 | INTRODUCTION", "INTRODUCTION"),
        ("2.3.1 | Analysis", "Analysis"),
        ("IV. Discussion", "Discussion"),
        ("II.1 Site and plants", "Site and plants"),
        ("Group 1 – Saline", "Group 1 – Saline"),
        ("Phase 2 trial", "Phase 2 trial"),
        ("HIV-1 RT assay", "HIV-1 RT assay"),
        ("12 weeks of treatment", "12 weeks of treatment"),
        ("X. laevis embryos", "X. laevis embryos"),
        ("Maintenance of HEK-293 cells", "Maintenance of HEK-293 cells"),
        ("2020 in review", "2020 in review"),
    ],
)
def test_a_heading_loses_its_number_alone(heading: str, name: str) -> None:
    assert plain(heading) == name


@given(st.from_regex(r"[A-Z][a-z]{2,8}( ?[A-Za-z0-9.-]{1,6}){0,6}", fullmatch=True))
def test_a_heading_that_begins_with_a_word_stays_whole(heading: str) -> None:
    assert plain(heading) == heading
    assert plain(f"2.3. {heading}") == heading
    assert plain(f"7 {heading}") == heading
