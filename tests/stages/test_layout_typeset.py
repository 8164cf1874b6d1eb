"""The fast engine on papers we typeset ourselves, whose text is known to the letter: set as journals, preprints, manuscripts, theses and scans."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pypdf
import pytest

from papertune.extract.backends.fast import Fast, pages_of
from papertune.records import Document

typst = pytest.importorskip("typst", reason="typesets the papers")

ENGLISH = [
    "The measurements were repeated at three temperatures so that the influence of the solvent could be separated from that of the salt.",
    "Every sample was weighed twice, and the difference between the two weights never exceeded the resolution of the balance.",
    "We find that the conductivity rises with concentration until ion pairs begin to form, after which it falls again.",
    "This behaviour agrees with earlier observations of comparable electrolytes, although the maximum lies at a lower concentration.",
    "A simple model with one adjustable parameter describes all of the data within their experimental uncertainty.",
    "The remaining deviations are largest for the most viscous mixtures, where the assumption of independent motion must fail.",
    "Further experiments at higher pressure would show whether the proposed mechanism is indeed responsible for the anomaly.",
    "Until then the parameter should be regarded as a convenient summary of the results rather than as a property of the liquid.",
]
GERMAN = [
    "Die Messungen wurden bei drei Temperaturen wiederholt, damit der Einfluss des Lösungsmittels von dem des Salzes getrennt werden konnte.",
    "Jede Probe wurde zweimal gewogen, und der Unterschied der beiden Gewichte lag stets unter der Auflösung der Waage.",
    "Die Leitfähigkeit wächst mit der Konzentration, bis sich Ionenpaare bilden, und fällt danach wieder.",
    "Dieses Verhalten stimmt mit früheren Beobachtungen an ähnlichen Elektrolyten überein, doch liegt das Maximum tiefer.",
    "Ein einfaches Modell mit einem freien Parameter beschreibt alle Daten innerhalb ihrer Messunsicherheit.",
    "Die übrigen Abweichungen sind für die zähesten Mischungen am größten, für die sich die Teilchen nicht unabhängig bewegen.",
    "Weitere Versuche bei höherem Druck würden zeigen, ob der vorgeschlagene Vorgang die Ursache ist.",
    "Bis dahin sollte der Parameter als bequeme Zusammenfassung der Ergebnisse gelten und nicht als Eigenschaft der Flüssigkeit.",
]
HEADINGS = ("Introduction", "Materials and methods", "Sample preparation", "Results and discussion", "Conclusions")
ABSTRACT = "Ions in mixtures of solvents move more slowly than those in either solvent alone. We show why, and for which mixtures it is worst."


@dataclass(frozen=True)
class Paper:
    """How a paper is set: Typst's rules, and markup behind the paragraphs of some numbers."""

    rules: str = ""
    extras: dict[int, str] = field(default_factory=dict)
    headings: tuple[str, ...] = HEADINGS
    heading: str = "= {}\n\n"  # what stands before a section's first paragraph
    sentences: tuple[str, ...] = tuple(ENGLISH)
    references: str = "References"
    title: str = "Transport of ions in mixtures of solvents"
    head: str = (
        '#place(top + center, float: true, scope: "parent", text(17pt, weight: "bold")[TITLE]'
        " + linebreak() + v(4pt) + text(10pt)[Ada Example and Ben Sample] + linebreak() + text(8pt)[Department of Chemistry, University of Nowhere])"
    )
    running_head: str = "header: align(center)[_Journal of Invented Chemistry_ 12, 345]"

    @property
    def paragraphs(self) -> list[str]:
        """Twenty paragraphs of four sentences, no two alike."""
        count = len(self.sentences)
        chosen = [[self.sentences[(start + step * (1 + start % 3)) % count] for step in range(4)] for start in range(20)]
        return [" ".join(sentences) + f" This is observation {number}." for number, sentences in enumerate(chosen)]

    def source(self) -> str:
        parts = [
            f'#set page(width: 595pt, height: 842pt, {self.running_head}, numbering: "1")',
            '#set text(size: 10pt, font: "Libertinus Serif", lang: "en")',
            "#set par(justify: true, first-line-indent: 1.2em, spacing: 0.65em)",
            '#set heading(numbering: "1.1")',
            "#show heading: set block(above: 1.4em, below: 0.9em)",
            self.rules,
            self.head.replace("TITLE", self.title),
        ]
        texts = self.paragraphs
        sections = self.headings or ("",)
        share = len(texts) // len(sections)
        for section, heading in enumerate(sections):
            body = [texts[index] + self.extras.get(index, "") for index in range(share * section, share * (section + 1))]
            parts.append((self.heading.format(heading) if heading else "") + "\n\n".join(body))
        parts.append(f"#heading(numbering: none)[{self.references}]")
        parts += [f"[{n}] A. Author and B. Writer, Journal of Things {n} (20{n:02d}) {100 + n}–{110 + n}.\n" for n in range(1, 12)]
        return "\n\n".join(parts)

    def typeset(self, folder: Path) -> Path:
        path = folder / "paper.pdf"
        path.write_bytes(typst.compile(self.source().encode()))
        return path


TWO = "#set page(columns: 2)\n"
LINE_NUMBERS = '#set par.line(numbering: "1")\n'
FLOAT = "\n\n#figure(rect(width: 80%, height: 90pt), placement: top, "
FLOAT += "caption: [A picture of the apparatus, which stands between halves of a paragraph.])"
FOOTNOTE = "#footnote[The salts were a gift and used as received from the donor.]"
EQUATION = "\n\n$ kappa = sum_i lambda_i c_i + integral_0^1 f(x) dif x $"
TABLE = "\n\n#figure(table(columns: 4, [Salt], [c], [κ], [η], ..range(1, 25).map(n => str(n * 1.25))), placement: auto, caption: [Conductivities.])"
STAMP = "#set page(background: context if counter(page).get().first() == 1 { place(left + horizon, dx: -120pt, "
STAMP += "rotate(-90deg, text(16pt, gray)[arXiv:2001.01234v2 [cond-mat.soft] 5 Jan 2020])) })\n"
LATEX = '#set text(font: "New Computer Modern")\n'
WIDE = '#place(top + center, float: true, scope: "parent", { text(17pt)[TITLE]; linebreak(); text(10pt)[Ada Example and Ben Sample]; v(6pt)'
WIDE += f"; block(width: 85%, align(left, text(9pt)[*Abstract.* {ABSTRACT}])) }})"
COVER = "#page(columns: 1)[#text(20pt)[Nowhere Research Repository] \\ #v(20pt) The accepted version of a paper in Annals of Inventions. \\ "
COVER += "Example, A. and Sample, B. (2020) TITLE. Annals of Inventions 12, 345. \\ Copyright belongs to the authors.]\n\n"

CASES = {
    "one column": Paper(),
    "two columns": Paper(TWO),
    "three columns": Paper("#set page(columns: 3, margin: 40pt)\n#set columns(gutter: 14pt)\n#set text(8.5pt, hyphenate: true)"),
    "line numbers": Paper(LINE_NUMBERS),
    "line numbers in two columns": Paper(TWO + LINE_NUMBERS),
    "a double-spaced manuscript": Paper(
        LINE_NUMBERS + "#set text(12pt)\n#set par(justify: false, leading: 1.5em, spacing: 1.5em)", running_head="header: none"
    ),
    "footnotes": Paper(TWO, {3: FOOTNOTE, 9: FOOTNOTE}),
    "floats": Paper(TWO, {2: FLOAT, 6: FLOAT, 13: FLOAT}),
    "tables": Paper(TWO, {2: TABLE, 9: TABLE}),
    "equations": Paper("", {4: EQUATION, 11: EQUATION}),
    "hyphenation": Paper(TWO + "#set text(hyphenate: true)"),
    "a preprint with a stamp": Paper(TWO + STAMP + LATEX, {5: EQUATION, 7: EQUATION}, running_head="header: none"),
    "LaTeX's fonts": Paper(LATEX + "#set page(margin: 110pt)\n#set par(spacing: 0.55em)\n#set text(hyphenate: true)", {4: EQUATION}),
    "a wide abstract": Paper(TWO, head=WIDE),
    "a cover": Paper(TWO, head=COVER + Paper.head),
    "a small title": Paper(TWO, head='#place(top, float: true, scope: "parent", [#text(12pt, weight: "bold")[TITLE] \\ Ada Example#super[1]])'),
    "blocks without indents": Paper("#set par(first-line-indent: 0em, spacing: 1.2em)"),
    "a letter without headings": Paper(headings=()),
    "headings in the type of the text": Paper('#show heading: set text(10pt, weight: "regular")'),
    "headings in italics": Paper(TWO + '#set heading(numbering: none)\n#show heading: set text(10pt, weight: "regular", style: "italic")'),
    "headings in capitals": Paper(TWO + '#show heading: it => upper(it)\n#show heading: set text(10pt, weight: "regular")'),
    "headings of two lines": Paper(TWO, headings=tuple(f"{name} of solutions of lithium salts in mixtures of carbonates" for name in HEADINGS)),
    "run-in headings": Paper(TWO, heading="*{}.* "),
    "German": Paper(
        '#set text(lang: "de", hyphenate: true)', sentences=tuple(GERMAN), references="Literatur",
        headings=("Einleitung", "Material und Methoden", "Probenvorbereitung", "Ergebnisse und Diskussion", "Schlussfolgerung"),
    ),
    "a thesis": Paper(
        "#set text(11pt)\n#set page(margin: (left: 110pt, right: 90pt), header: none)\n#show heading.where(level: 1): set text(20pt)",
        head='#align(center + horizon)[#text(24pt, weight: "bold")[TITLE] \\ #text(14pt)[Ada Example] \\ A thesis of the University of Nowhere]\n'
        "#pagebreak()\n#outline()\n#pagebreak()",
    ),
}  # fmt: skip


def check(paper: Paper, document: Document) -> None:
    """At least 98 of 100 paragraphs letter by letter, and all headings and the title."""
    found = {re.sub(r"(?<=donor)\W|(?<=\.)\d+$", "", block.text) for block in document.blocks if block.kind == "paragraph"}
    missing = [text for text in paper.paragraphs if text not in found]
    assert len(missing) <= 0.02 * len(paper.paragraphs), (missing[:1], sorted(found)[:3])
    headings = [re.sub(r"^\d+(\.\d+)*\s+|\.$", "", block.text) for block in document.blocks if block.kind == "heading"]
    assert [text.lower() for text in headings if text not in ("Abstract", "Contents")] == [text.lower() for text in paper.headings]
    assert [block.text for block in document.blocks if block.kind == "title"] == [paper.title]
    others = "Journal of Invented|accepted version|Journal of Things|University of Nowhere|arXiv:|were a gift|picture of the apparatus"
    assert not re.search(others, document.running_text())


@pytest.mark.parametrize("case", CASES)
def test_paragraphs_and_headings_come_back_exactly(case: str, tmp_path: Path) -> None:
    check(CASES[case], Fast().read(CASES[case].typeset(tmp_path)))


def turned(path: Path) -> None:
    """The same page held sideways in the file, and turned back by its reader."""
    writer = pypdf.PdfWriter(clone_from=path)
    for page in writer.pages:
        width, height = float(page.mediabox.width), float(page.mediabox.height)
        page.add_transformation(pypdf.Transformation().rotate(90).translate(height, 0))
        page.mediabox = page.cropbox = pypdf.generic.RectangleObject((0, 0, height, width))
        page.rotate(90)
    writer.write(path)


def scanned(path: Path) -> None:
    """As a scanner's text recognition writes it: invisible words one by one, their sizes off by some tenths."""
    pages, _ = pages_of(path)
    writer = pypdf.PdfWriter()
    font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Courier", "/Encoding": "/WinAnsiEncoding"}
    for page in pages:
        words = []
        for number, span in enumerate(page.upright):
            step = (span.right - span.left) / len(span.text)
            for word in re.finditer(r"\S+", span.text):
                size = span.size * (0.97, 1.0, 1.02)[(number + word.start()) % 3]
                text = re.sub("[\ufffe\x02]", "-", word[0]).encode("cp1252", "replace").decode("latin-1")
                text = re.sub(r"([()\\])", r"\\\1", text)
                place = f"{span.left + step * word.start():.2f} {page.height - span.baseline:.2f}"
                words.append(f"/F {size:.2f} Tf {100 * step / (0.6 * size):.2f} Tz 1 0 0 1 {place} Tm ({text}) Tj")
        sheet = writer.add_blank_page(page.width, page.height)
        stream = pypdf.generic.DecodedStreamObject()
        stream.set_data(("BT 3 Tr " + "\n".join(words) + " ET").encode("latin-1"))
        sheet[pypdf.generic.NameObject("/Contents")] = writer._add_object(stream)
        names = pypdf.generic.DictionaryObject({pypdf.generic.NameObject(key): pypdf.generic.NameObject(value) for key, value in font.items()})
        fonts = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/F"): names})
        sheet[pypdf.generic.NameObject("/Resources")] = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/Font"): fonts})
    writer.write(path)


@pytest.mark.parametrize("treat", [turned, scanned])
@pytest.mark.parametrize("rules", ["", TWO], ids=["one column", "two columns"])
def test_pages_turned_and_scanned(treat: Callable[[Path], None], rules: str, tmp_path: Path) -> None:
    paper = Paper(rules)
    path = paper.typeset(tmp_path)
    treat(path)
    check(paper, Fast().read(path))


def test_every_block_has_an_address(tmp_path: Path) -> None:
    document = Fast().read(Paper(TWO, {2: FLOAT}).typeset(tmp_path))
    assert document.pages >= 2
    for block in document.blocks:
        assert block.places
        for place in block.places:
            assert place.box is not None
            left, top, right, bottom = place.box
            assert 0 <= left <= right <= 596
            assert 0 <= top <= bottom <= 843
    assert Document.from_json(document.to_json()) == document
