"""The one prompt format: what fits, what goes first when it does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from papertune import prompts

WORDS = st.text('abc .?\n#…"', max_size=80)
HEADINGS = st.lists(st.sampled_from(["Methods", "Sampling", "Results"]), min_size=1, max_size=3).map(tuple)


@given(st.lists(st.tuples(WORDS, WORDS), max_size=4), HEADINGS, WORDS, st.integers(0, 200))
def test_a_prompt_fits_its_room_and_ends_as_its_section_begins(before: list[tuple[str, str]], path: tuple[str, ...], written: str, room: int) -> None:
    made = prompts.section("T", before, path, written, room=room, count=len)
    least = prompts.section("T", (), path, "", room=0, count=len)
    assert len(made) <= max(room, len(least))
    assert made.startswith("# T\n\n")
    assert f"## {path[0]}\n\n" in made
    assert made.endswith("".join(f"{'#' * (depth + 3)} {heading}\n\n" for depth, heading in enumerate(path[1:])))


@given(WORDS, st.integers(-5, 60))
def test_the_end_of_a_text_is_whole_or_marked_as_an_end(text: str, room: int) -> None:
    end = prompts.tail(text, room, len)
    assert len(end) <= max(0, room)
    assert end in ("", text) or (end.startswith(prompts.GAP) and text.endswith(end.removeprefix(prompts.GAP)))


def test_an_outline_is_asked_for_by_the_line_contents() -> None:
    assert prompts.outline("On rivers") == "# On rivers\n\n## Contents\n\n"
    assert prompts.outline("On rivers", "They flow.") == "# On rivers\n\n## Abstract\n\nThey flow.\n\n## Contents\n\n"
