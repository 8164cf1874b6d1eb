"""Chunks of whatever text: they fit, nothing is lost, and they end where one may end."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from papertune.dataset.chunks import cut
from papertune.dataset.flow import Flow, flow_of
from papertune.dataset.read import parse
from papertune.dataset.tokens import TokenCounter

TEXT = st.lists(
    st.one_of(
        st.sampled_from(["## Methods", "### Details", "# Again", "Statistical analysis", "It was as follows:"]),
        st.lists(st.text("abcd é😀.,A1 ", min_size=1, max_size=120), min_size=1, max_size=5).map(lambda parts: "The " + ". The ".join(parts) + "."),
        st.text("xy", min_size=300, max_size=500),
    ),
    max_size=12,
).map("\n\n".join)
SIZE, MOST = 200, 60


class Pairs:
    """A tokenizer whose tokens are two characters long, the first with the space before a word."""

    bos, eos, size = 1, 2, 3

    def encode(self, text: str) -> list[int]:
        return [3] * -(-len(text) // 2)

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError


def flow(text: str) -> Flow:
    return flow_of(parse(text)[1], TokenCounter(Pairs()), SIZE, MOST)


@settings(max_examples=200)
@given(TEXT, st.integers(0, 150))
def test_chunks_fit_and_follow_one_another(text: str, overlap: int) -> None:
    made = flow(text)
    chunks = list(cut(made, overlap=overlap, room=lambda _section, _inside: (SIZE, MOST)))
    at = 0
    for chunk in chunks:
        written = made.text[made.starts[chunk.first] : made.ends[chunk.last - 1]]
        assert chunk.first + chunk.repeated == at
        assert chunk.last > at
        assert len(written) <= SIZE
        assert chunk.tokens <= MOST
        assert not written.rpartition("\n")[2].startswith("#")
        repeated = made.text[made.starts[chunk.first] : made.ends[at - 1]] if chunk.repeated else ""
        assert len(repeated) <= overlap
        at = chunk.last
    assert at == len(made)


@settings(max_examples=200)
@given(TEXT)
def test_every_letter_is_in_some_sentence_or_heading(text: str) -> None:
    made = flow(text)
    inside = "".join(made.text[a:b] for a, b in zip(made.starts, made.ends, strict=True))
    paragraphs = "".join(block.text for block in parse(text)[1] if not block.level)
    assert "".join(inside.split()) == "".join(paragraphs.split())


@settings(max_examples=200)
@given(TEXT)
def test_spans_lead_back_to_the_file(text: str) -> None:
    made = flow(text)
    for a, b in zip(made.starts, made.ends, strict=True):
        start, end = made.span(a, b)
        assert text[start:end] == made.text[a:b] or "\n" in text[start:end]


def test_a_chunk_does_not_end_on_a_line_that_leads_on() -> None:
    sentence = "The water was measured in the morning. "
    text = f"{sentence * 4}\n\nStatistical analysis\n\n{sentence * 4}"
    made = flow(text)
    chunks = [made.text[made.starts[c.first] : made.ends[c.last - 1]] for c in cut(made, overlap=0, room=lambda *_: (190, 100))]
    assert len(chunks) > 1
    assert not any(chunk.endswith("Statistical analysis") for chunk in chunks)
