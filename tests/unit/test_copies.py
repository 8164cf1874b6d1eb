"""What counts as a copy, that every copy is found in full, and that real papers of other authors give no alarm."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papertune.base import open_base
from papertune.copies import SEED, Collection, Source
from papertune.records import Block, Document, Example, Place
from papertune.tokenizer import open_tokenizer
from papertune.training_text import LEAST_TOKENS, TrainingText

TRUTH = Path(__file__).parents[3] / "shared" / "papers" / "truth"
PROSE = (
    "The seeds were sown in trays of washed sand and watered every second day, and those that had not opened their first pair of leaves "
    "by the third week were lifted, rinsed, and looked at under a lens. Most of them had simply dried out; a few carried the grey threads "
    "of a mould that we met again in the store room, on sacks that had stood against the outer wall since the autumn before."
)


def found(collection: Collection, text: str) -> list[str]:
    return [text[copy.start : copy.end] for copy in collection.copies(text)]


def test_a_copy_is_found_whatever_its_case_wrapping_and_punctuation() -> None:
    words = PROSE.split()
    collection = Collection([Source("a", "Before it. " + PROSE + " After it.")])
    shouted = "New words. " + "\n".join(words).upper().replace(",", " -") + " And others."
    assert [copy.words for copy in collection.copies(shouted)] == [len(words)]
    assert found(collection, shouted)[0].startswith("THE\nSEEDS")
    assert found(collection, shouted)[0].endswith("BEFORE")


def test_one_changed_word_parts_a_copy_in_two() -> None:
    collection = Collection([Source("a", PROSE)])
    first, second = collection.copies(PROSE.replace("looked", "seen"))
    assert (first.words, second.words) == (len(PROSE[: PROSE.index("looked")].split()), len(PROSE[PROSE.index("at under") :].split()))


def test_seven_words_are_no_copy_and_eight_are() -> None:
    collection = Collection([Source("a", PROSE)])
    words = PROSE.split()
    assert not collection.copies(" ".join(words[10 : 10 + SEED - 1]))
    assert [c.words for c in collection.copies(" ".join(words[10 : 10 + SEED]))] == [SEED]


def test_the_longest_source_is_named_and_the_others_counted() -> None:
    half = PROSE[: len(PROSE) // 2]
    collection = Collection([Source("short", half), Source("long", PROSE), Source("too", half), Source("none", "Nothing alike stands here at all.")])
    (copy,) = collection.copies(PROSE)
    assert (copy.paper, copy.others, copy.end) == ("long", 2, len(PROSE) - 1)


def test_nothing_is_found_across_the_end_of_a_paper() -> None:
    words = PROSE.split()
    collection = Collection([Source("a", " ".join(words[:5])), Source("b", " ".join(words[5:12]))])
    assert not collection.copies(PROSE)


def test_a_word_that_agrees_by_chance_on_the_next_page_does_not_add_the_page() -> None:
    words = PROSE.split()
    sources = [Source("a", " ".join(words[:20]), pages=(3, 3)), Source("a", " ".join(words[20:]), pages=(4, 4))]
    (copy,) = Collection(sources).copies(" ".join(words[:22]) + " goes on otherwise.")
    assert (copy.words, copy.pages) == (22, (3, 3))
    (whole,) = Collection(sources).copies(" ".join(words[:28]))
    assert whole.pages == (3, 4)
    (short,) = Collection(sources).copies(" ".join(words[15:25]))
    assert short.pages == (3, 4)  # where no page has more, all count


@pytest.mark.parametrize("overlap", [0, 15])
def test_a_copy_over_overlapping_or_touching_examples_is_one(overlap: int) -> None:
    words = (PROSE + " " + PROSE[::-1]).split()
    size = 30
    sources = [Source("a", " ".join(words[i : i + size]), pages=(i, i + 1)) for i in range(0, len(words), size - overlap)]
    (copy,) = Collection(sources).copies("Mine. " + " ".join(words[10:100]) + " Mine.")
    assert copy.words >= 90
    assert copy.pages is not None
    assert copy.pages[0] <= 10 < copy.pages[0] + size


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_agrees_with_comparing_every_word(seed: int, vocabulary: int) -> None:
    """Few different words, so that runs of every shape and repetition occur."""
    rng = random.Random(seed)
    sources = [[rng.randrange(vocabulary) for _ in range(rng.randrange(40))] for _ in range(3)]
    text = [rng.randrange(vocabulary) for _ in range(60)]
    collection = Collection(Source(str(i), " ".join(f"w{w}" for w in words)) for i, words in enumerate(sources))
    copied = [False] * len(text)
    longest = 0
    for words in sources:
        for i in range(len(text)):
            for j in range(len(words)):
                size = 0
                while i + size < len(text) and j + size < len(words) and text[i + size] == words[j + size]:
                    size += 1
                if size >= SEED:
                    copied[i : i + size] = [True] * size
                    longest = max(longest, size)
    copies = collection.copies(" ".join(f"w{w}" for w in text))
    assert max((copy.words for copy in copies), default=0) == longest
    for copy in copies:
        shown = " ".join(f"w{w}" for w in text)[copy.start : copy.end].split()
        at = len(" ".join(f"w{w}" for w in text)[: copy.start].split())
        assert all(copied[at : at + len(shown)])
        assert len(shown) == copy.words


def test_a_text_without_words_has_no_copies() -> None:
    assert not Collection([]).copies(PROSE)
    assert not Collection([Source("a", "…")]).copies("")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One paper of two pages as extraction and dataset write it; the examples know two pages, the sidecar knows which."""
    first, second = PROSE, PROSE.replace("seeds", "bulbs")[::-1].replace(" ", "  ")
    blocks = (Block("title", "Seeds", (Place(1),)), Block("paragraph", first, (Place(1),)), Block("paragraph", second, (Place(2),)))
    document = Document("seeds.pdf", "0" * 64, "fast", 2, blocks)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "seeds.txt").write_text(document.running_text())
    (tmp_path / "texts" / "seeds.blocks.json").write_text(document.to_json())
    example = Example("seeds#0000", "seeds", document.running_text(), source="seeds.pdf", pages=(1, 2), span=(0, 1))
    (tmp_path / "train.jsonl").write_text(example.to_json() + "\n")
    return tmp_path


def test_a_planted_paragraph_is_found_with_its_paper_and_page(corpus: Path) -> None:
    count = len
    draft = "Our own words first. " + PROSE + " And ours again."
    exact = TrainingText(corpus / "train.jsonl", corpus / "texts").compare(draft, count)
    assert [found.place for found in exact.long] == ["seeds.pdf, page 1"]
    assert exact.long[0].text == PROSE[:-1]
    assert 0.7 < exact.share < 1
    assert [found.place for found in TrainingText(corpus / "train.jsonl").compare(draft, count).found] == ["seeds.pdf, pages 1-2"]
    assert [found.place for found in TrainingText(corpus / "texts").compare(draft, count).found] == ["seeds.pdf, page 1"]


@pytest.mark.skipif(not TRUTH.is_dir(), reason="the real papers are not on this machine")
def test_real_papers_of_other_authors_give_no_alarm_and_planted_paragraphs_all_do(tmp_path: Path) -> None:
    papers = {path.stem: [b["text"] for b in json.loads(path.read_text())["main"]] for path in sorted(TRUTH.glob("*.json"))}
    names = sorted(papers)
    held, training = names[::6], [name for name in names if name not in names[::6]]
    lines = [
        Example(f"{name}#{i}", name, text, source=f"{name}.pdf", pages=(i, i), span=(i, i + 1)).to_json()
        for name in training
        for i, text in enumerate(papers[name])
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    against = TrainingText(tmp_path / "train.jsonl")
    tokenizer = open_tokenizer(open_base("tiny").folder)

    def count(text: str) -> int:
        return len(tokenizer.encode(text))

    rng = random.Random(0)
    alarms, planted, right = [], 0, 0
    for name in held:
        own = papers[name]
        alarms += [found.text for found in against.compare("\n\n".join(own), count).long]
        source = rng.choice(training)
        wanted = [(i, text) for i, text in enumerate(papers[source]) if count(text) >= LEAST_TOKENS]
        place, text = rng.choice(wanted)
        comparison = against.compare("\n\n".join([*own[:3], text, *own[3:]]), count)
        planted += 1
        right += any(
            found.copy.paper == source and found.copy.pages == (place, place) and found.copy.words > 0.95 * len(re.findall(r"[^\W_]+", text))
            for found in comparison.long
        )
    assert right == planted
    # Sentences that journals prescribe word for word are copies; nothing else may be.
    assert [text for text in alarms if "conflict of interest" not in text.lower()] == []
