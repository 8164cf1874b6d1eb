"""The fast engine on papers we typeset ourselves, whose text is known to the letter, and the pure pieces of the layout."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertune.extract.backend import Damaged, NotPdf
from papertune.extract.backends.fast import Fast
from papertune.extract.layout import characters, features, labeller
from papertune.extract.layout.hyphens import Vocabulary
from papertune.extract.layout.ligatures import Ligatures
from papertune.extract.layout.lines import Line, Page, Span, lines_of
from papertune.extract.layout.order import in_reading_order
from papertune.records import Document

typst = pytest.importorskip("typst", reason="typesets the papers")
PAPERS = Path(__file__).parents[2].parent / "shared" / "papers"

SENTENCES = [
    "The measurements were repeated at three temperatures so that the influence of the solvent could be separated from that of the salt.",
    "Every sample was weighed twice, and the difference between the two weights never exceeded the resolution of the balance.",
    "We find that the conductivity rises with concentration until ion pairs begin to form, after which it falls again.",
    "This behaviour agrees with earlier observations of comparable electrolytes, although the maximum lies at a lower concentration.",
    "A simple model with one adjustable parameter describes all of the data within their experimental uncertainty.",
    "The remaining deviations are largest for the most viscous mixtures, where the assumption of independent motion must fail.",
    "Further experiments at higher pressure would show whether the proposed mechanism is indeed responsible for the anomaly.",
    "Until then the parameter should be regarded as a convenient summary of the results rather than as a property of the liquid.",
]
HEADINGS = ["Introduction", "Materials and methods", "Sample preparation", "Results and discussion", "Conclusions"]


def paragraphs() -> list[str]:
    """Twenty paragraphs of four sentences, no two alike."""
    chosen = [[SENTENCES[(start + step * (1 + start % 3)) % len(SENTENCES)] for step in range(4)] for start in range(20)]
    return [" ".join(sentences) + f" This is observation {number}." for number, sentences in enumerate(chosen)]


def typeset(folder: Path, settings: str, *, extras: dict[int, str] | None = None, numbered: bool = True) -> Path:
    """A paper of five sections; ``extras`` are put behind the paragraphs of these numbers."""
    texts = paragraphs()
    source = [
        '#set page(width: 595pt, height: 842pt, header: align(center)[_Journal of Invented Chemistry_ 12, 345], numbering: "1")',
        '#set text(size: 10pt, font: "Libertinus Serif", lang: "en")',
        "#set par(justify: true, first-line-indent: 1.2em, spacing: 0.65em)",
        '#set heading(numbering: "1.1")' if numbered else "",
        "#show heading: set block(above: 1.4em, below: 0.9em)",
        settings.split("|")[0],
        '#place(top + center, float: true, scope: "parent", text(17pt, weight: "bold")[Transport of ions in mixtures of solvents]'
        " + linebreak() + v(4pt) + text(10pt)[Ada Example and Ben Sample] + linebreak() + text(8pt)[Department of Chemistry, University of Nowhere])",
        settings.split("|")[1] if "|" in settings else "",
    ]
    for section, heading in enumerate(HEADINGS):
        source.append(f"= {heading}")
        source += [texts[index] + (extras or {}).get(index, "") for index in range(4 * section, 4 * section + 4)]
    source.append("#heading(numbering: none)[References]")
    source += [f"[{n}] A. Author and B. Writer, Journal of Things {n} (20{n:02d}) {100 + n}–{110 + n}.\n" for n in range(1, 12)]
    path = folder / "paper.pdf"
    path.write_bytes(typst.compile("\n\n".join(source).encode()))
    return path


ONE, TWO = "", "#set page(columns: 2)"
FLOAT = "\n\n#figure(rect(width: 80%, height: 90pt), placement: top, "
FLOAT += "caption: [A picture of the apparatus, which stands between halves of a paragraph.])"
FOOTNOTE = "#footnote[The salts were a gift and used as received from the donor.]"
EQUATION = "\n\n$ kappa = sum_i lambda_i c_i + integral_0^1 f(x) dif x $"
LINE_NUMBERS = '#set par.line(numbering: "1")'

CASES = {
    "one column": (ONE, None),
    "two columns": (TWO, None),
    "line numbers": (LINE_NUMBERS, None),
    "line numbers in two columns": (TWO + "\n" + LINE_NUMBERS, None),
    "footnotes": (TWO, {3: FOOTNOTE, 9: FOOTNOTE}),
    "floats": (TWO, {2: FLOAT, 6: FLOAT, 13: FLOAT}),
    "equations": (ONE, {4: EQUATION, 11: EQUATION}),
    "hyphenation": (TWO + "\n#set text(hyphenate: true)", None),
}


@pytest.mark.parametrize("case", CASES)
def test_paragraphs_and_headings_come_back_exactly(case: str, tmp_path: Path) -> None:
    settings, extras = CASES[case]
    document = Fast().read(typeset(tmp_path, settings, extras=extras))
    found = {re.sub(r"(?<=donor)\W|(?<=\.)\d+$", "", block.text) for block in document.blocks if block.kind == "paragraph"}
    expected = paragraphs()
    missing = [text for text in expected if text not in found]
    assert len(missing) <= 0.02 * len(expected), (missing[:1], sorted(found)[:3])
    headings = [re.sub(r"^\d+(\.\d+)*\s+", "", block.text) for block in document.blocks if block.kind == "heading"]
    assert headings == HEADINGS
    assert [block.text for block in document.blocks if block.kind == "title"] == ["Transport of ions in mixtures of solvents"]
    assert "Journal of Invented" not in document.running_text()


def test_every_block_has_an_address(tmp_path: Path) -> None:
    document = Fast().read(typeset(tmp_path, TWO, extras={2: FLOAT}))
    assert document.pages >= 2
    for block in document.blocks:
        assert block.places
        for place in block.places:
            assert place.box is not None
            left, top, right, bottom = place.box
            assert 0 <= left <= right <= 596
            assert 0 <= top <= bottom <= 843
    assert Document.from_json(document.to_json()) == document


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


def test_features_are_named() -> None:
    page = Page(1, 600, 800, [Span("some words on a line", 50, 200, 100, 10)])
    from papertune.extract.layout import rows_and_body

    rows, body, _ = rows_and_body([page])
    assert features.features_of(rows, body).shape == (1, len(features.OWN) + len(features.PLACE) + len(features.WIDE) * len(features.SHIFTS))
    assert [len(found) for found in labeller.kinds_of(rows, body)] == [1, 1]


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
