"""The pieces of the layout, each by itself."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertune.extract.backend import Damaged, NotPdf
from papertune.extract.backends.fast import Fast
from papertune.extract.layout import characters, features, labeller, numbering, rows_and_body, styles
from papertune.extract.layout.hyphens import Vocabulary
from papertune.extract.layout.kinds import kinds_of_labels
from papertune.extract.layout.ligatures import Ligatures
from papertune.extract.layout.lines import Line, Page, Span, lines_of
from papertune.extract.layout.order import in_reading_order
from papertune.extract.layout.run_in import without_run_in
from papertune.extract.layout.setting import Body, Row

PAPERS = Path(__file__).parents[2].parent / "shared" / "papers"


@pytest.mark.parametrize(("content", "error"), [(b"plain text", NotPdf), (b"%PDF-1.7\nnothing", Damaged), (b"", NotPdf)])
def test_what_cannot_be_read_is_named(content: bytes, error: type[Exception], tmp_path: Path) -> None:
    path = tmp_path / "file.pdf"
    path.write_bytes(content)
    with pytest.raises(error):
        Fast().read(path)


def line(text: str, left: float, baseline: float, width: float = 200.0) -> Line:
    return Line(1, [Span(text, left, left + width, baseline, 10.0)])


@given(st.integers(5, 40), st.integers(5, 40), st.randoms())
def test_two_columns_are_read_one_after_the_other(left: int, right: int, random) -> None:  # type: ignore[no-untyped-def]
    lines = [line(f"left column, line {n}", 50, 100 + 12 * n) for n in range(left)]
    lines += [line(f"right column, line {n}", 300, 100 + 12 * n) for n in range(right)]
    expected = [one.text for one in lines]
    random.shuffle(lines)
    assert [one.text for column in in_reading_order(lines) for one in column] == expected


@given(st.integers(0, 60), st.randoms())
def test_order_loses_nothing(count: int, random) -> None:  # type: ignore[no-untyped-def]
    lines = [line("some words on a line", random.uniform(0, 500), random.uniform(0, 800), random.uniform(5, 300)) for _ in range(count)]
    ordered = [id(one) for column in in_reading_order(lines) for one in column]
    assert sorted(ordered) == sorted(map(id, lines))


def test_a_superscript_drawn_later_returns_to_its_line() -> None:
    spans = [Span("as shown", 50, 90, 100, 10), Span("below", 50, 80, 112, 10), Span("2", 90.5, 94, 96, 6)]
    assert [one.text for one in lines_of(Page(1, 600, 800, spans))] == ["as shown2", "below"]


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("was adminis\ufffe", "tered twice", "was administered twice"),
        ("the water-", "soluble part", "the water-soluble part"),
        ("pre-", "and postoperative", "pre- and postoperative"),
        ("with α-", "pinene", "with α-pinene"),
        ("Smith-", "Jones found", "Smith-Jones found"),
        ("a plain end", "and more", "a plain end and more"),
    ],
)
def test_hyphens(first: str, second: str, joined: str) -> None:
    assert Vocabulary(["administered", "a water-soluble salt"]).join(first, second) == joined


WORDS = st.text("abcdefghij", min_size=2, max_size=12)


@given(WORDS, st.data())
def test_a_word_seen_whole_is_mended(word: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(word) - 1))
    if at > 1:  # a single letter before a hyphen is a prefix such as n-hexane
        assert Vocabulary([f"{word} {word}"]).join(f"the {word[:at]}-", word[at:]) == f"the {word}" or word[at:] in ("and", "or", "to")


@given(WORDS, WORDS)
def test_a_compound_seen_keeps_its_hyphen(one: str, other: str) -> None:
    assert Vocabulary([f"a {one}-{other} b {one}-{other} c"]).join(f"{one}-", f"{other} d") == f"{one}-{other} d"


@given(st.text())
def test_clean_text_is_clean_and_stays_so(text: str) -> None:
    once = characters.clean(text)
    assert not re.search(r"[\ufffd\ufffe\uffff\x00-\x08\x0e-\x1f\ue000-\uf8ff\ufb00-\ufb06]", once)
    once.encode("utf-8")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("ﬁnal eﬃcient", "final efficient"),
        ("Garc´ıa and M¨uller", "García and Müller"),
        ("Fisher´s test", "Fisher´s test"),
        ("x² in ℝ", "x² in ℝ"),
        ("\uf061-pinene", "α-pinene"),
    ],
)
def test_characters(raw: str, clean: str) -> None:
    assert characters.clean(raw) == clean


def test_ligatures_are_told_by_the_paper_itself() -> None:
    texts = ["more speci\ue103c de\ue103ned", "it is specific and well defined", "+e first", "+is second", "+ese, and +e last", "1 + 2"]
    mended = Ligatures(texts)
    assert mended.mend("speci\ue103c") == "specific"
    assert mended.mend("+e sum of 1 + 2") == "The sum of 1 + 2"


def row(text: str, at: float = 100.0, *, page: int = 1, size: float = 10.0, bold: bool = False, font: str = "Text", above: float = 30.0) -> Row:
    span = Span(text, 50, 50 + 0.5 * size * len(text), at, size, font, bold)
    return Row(Line(page, [span]), Page(page, 600, 800), page, 50, 550, above, 30.0)


BODY = Body(10.0, frozenset({"Text"}), 12.0)


def test_features_are_named() -> None:
    page = Page(1, 600, 800, [Span("some words on a line", 50, 200, 100, 10)])
    rows, body, _ = rows_and_body([page])
    names = (features.OWN, features.PLACE, styles.STYLE, numbering.NUMBERING)
    assert features.features_of(rows, body).shape == (1, sum(map(len, names)) + len(features.WIDE) * len(features.SHIFTS))
    assert [len(found) for found in labeller.kinds_of(rows, body)] == [1, 1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2.1 Plant material", (numbering.DECIMAL, 2, 1)),
        ("3.4.1. Assay", (numbering.DECIMAL, 3, 4, 1)),
        ("1 | INTRODUCTION", (numbering.DECIMAL, 1)),
        ("IV. Results", (numbering.ROMAN, 4)),
        ("B. Samples", (numbering.LETTER, 2)),
        ("2019 was a good year", None),
        ("A sample", None),
        ("3.5 ± 0.4", None),
    ],
)
def test_numbers_of_headings(text: str, number: numbering.Number | None) -> None:
    assert numbering.number_of(text) == number


def test_numbers_count_on() -> None:
    texts = ["1 Introduction", "of 3 samples", "2 Methods", "2.1 Plants", "2.2 Animals", "7 animals were", "3 Results"]
    depth, before, after, again = numbering.numbering_features(texts).T.tolist()
    assert depth == [1, 0, 1, 2, 2, 1, 1]
    assert before == [1, 0, 2, 3, 4, 1, 5]
    assert after == [5, 0, 4, 3, 2, 1, 1]
    assert again == [1, 0, 1, 1, 1, 1, 1]


@given(st.lists(st.text("0123456789. aAI", max_size=8), max_size=20))
def test_any_numbers_are_taken(texts: list[str]) -> None:
    found = numbering.numbering_features(texts)
    assert found.shape == (len(texts), 4)
    assert (found[:, 1] >= (found[:, 0] > 0)).all()


@pytest.mark.parametrize(
    ("spans", "heading"),
    [
        ([("Methods: ", "Bold"), ("We took", "Text")], "Methods:"),
        ([("2.1. Plant material. ", "Italic"), ("Leaves of", "Text")], "2.1. Plant material."),
        ([("3.1. Ocimum sanctum. Ocimum sanctum ", "Italic"), ("is a herb", "Text")], "3.1. Ocimum sanctum."),
        ([("Results: we found that", "Text")], "Results:"),
        ([("E. coli ", "Italic"), ("was grown", "Text")], None),
        ([("We took ", "Text"), ("E. coli.", "Italic")], None),
        ([("Figure 3. ", "Bold"), ("A picture", "Text")], None),
    ],
)
def test_headings_that_run_into_their_paragraph(spans: list[tuple[str, str]], heading: str | None) -> None:
    made = [Span(text, 50 + 100 * n, 150 + 100 * n, 100, 10, font, font == "Bold", font == "Italic", True) for n, (text, font) in enumerate(spans)]
    parts = without_run_in(Line(1, made), frozenset({"Text"}))
    assert (parts[0].text if len(parts) == 2 else None) == heading
    assert " ".join(part.text for part in parts) == Line(1, made).text


def test_a_paper_has_one_title() -> None:
    rows = [
        row("Journal of Invented Chemistry", 50, size=20),
        row("Research Article", 80, size=17),
        row("Transport of ions in", 120, size=17),
        row("Received 3 May", 130, size=8),
        row("mixtures of solvents", 140, size=17),
        row("Ada Example", 160, size=12),
    ]
    labels = ["title", "title", "title", "other", "heading", "other"]
    assert kinds_of_labels(labels, rows, BODY) == ["author", "author", "title", "author", "title", "author"]


def test_what_counts_on_from_a_heading_is_one() -> None:
    texts = ["3.1 Plants", "Leaves were taken.", "3.2 Animals", "Rats.", "3.7 mg were given"]
    rows = [row("3 Methods", bold=True, font="Bold"), *map(row, texts)]
    labels = ["heading", *["paragraph"] * 5]
    assert kinds_of_labels(labels, rows, BODY) == ["heading", "heading", "paragraph", "heading", "paragraph", "paragraph"]


def test_back_matter_ends_at_a_heading_of_its_rank() -> None:
    prose = [row("Some text.", page=2) for _ in range(6)]
    rows = [*prose, row("Author contributions", bold=True), row("Formal analysis:"), row("Ada."), row("Further tests", bold=True), row("Text.")]
    labels = [*["paragraph"] * 6, "heading", "heading", "back", "heading", "paragraph"]
    assert kinds_of_labels(labels, rows, BODY)[6:] == ["back", "back", "back", "heading", "paragraph"]


def test_prose_among_the_authors_is_the_abstract() -> None:
    prose = "It was found that the salt in the solution is the cause of the rise of the conductivity, and that it is not for the size of the ions."
    abstract = [row(prose, 112 + 12 * n, above=12.0 if n else 30.0) for n in range(4)]
    rows = [row("Ada Example"), *abstract, row("The work is open access under a licence of the author.")]
    assert kinds_of_labels(["other"] * 6, rows, BODY) == ["author", *["paragraph"] * 4, "author"]


@pytest.mark.slow
@pytest.mark.skipif(not PAPERS.is_dir(), reason=f"{PAPERS} is absent: no published papers to read")
def test_published_papers_keep_their_words() -> None:
    kept = []
    for truth in sorted((PAPERS / "truth").glob("*.json"))[::8]:
        main = json.loads(truth.read_text())["main"]
        text = re.sub(r"\W+", "", Fast().read(PAPERS / "pdf" / f"{truth.stem}.pdf").running_text().lower())
        words = [re.sub(r"\W+", "", block["text"].lower())[:40] for block in main if len(block["text"]) > 80]
        kept.append(sum(word in text for word in words) / len(words))
    assert sum(kept) / len(kept) > 0.85
