"""Did it copy? What stands word for word in the training papers too, with the paper and page it is from."""

from __future__ import annotations

from collections.abc import Sequence

from papertune.report.facts import Absent, Continuation, Copied, CopiedSpan, Evaluation, Facts
from papertune.report.markup import Content, Markup, element
from papertune.report.parts import folded, long_list, missing, name, not_yet, section, table
from papertune.report.words import count, counted, percent

ID, TITLE = "copies", "Did it copy?"
_SHOWN = 20  # spans that are shown in full


def copies(facts: Facts) -> Markup:
    if isinstance(facts.evaluation, Absent):
        return missing(ID, TITLE, facts.evaluation)
    evaluation = facts.evaluation
    if evaluation.copies is None:
        return section(ID, TITLE, None, not_yet("The training text was not there to compare with.", "papertune evaluate --train-file TRAIN.JSONL"))
    held_out = evaluation.copies
    return section(ID, TITLE, _lead(evaluation), _table(evaluation, held_out), _spans(held_out), _papers(held_out))


def _lead(evaluation: Evaluation) -> str:
    written = [sample.tuned for sample in evaluation.samples]
    long = sum(len(text.copies) for text in written)
    compared = f"Compared with {counted(evaluation.training_words, 'word')} of training text"
    copy = f"{evaluation.least_tokens} tokens or more count as a copy"
    if not written:
        return f"{compared}; runs of {copy}. What held-out papers share with it by chance or custom is the measure for what a model may."
    if not long:
        return f"No: {compared[0].lower()}{compared[1:]}, the tuned model's samples hold no copy. Runs of {copy}."
    found = f"The tuned model's samples hold {counted(long, 'copy', 'copies')}, highlighted above once you have chosen."
    return f"{found} {compared}; runs of {copy}."


def _table(evaluation: Evaluation, held_out: Sequence[Copied]) -> Markup:
    rows: list[tuple[Content, ...]] = []
    for label, texts in (
        ("Samples by the tuned model", [s.tuned for s in evaluation.samples]),
        ("Samples by the base model", [s.base for s in evaluation.samples]),
    ):
        if texts:
            spans = [end - start for text in texts for start, end, _, _ in text.copies]
            longest = max((tokens for text in texts for _, _, tokens, _ in text.copies), default=0)
            rows.append(_row(label, len(texts), len(spans), _share(texts), longest))
    long = sum(len(paper.spans) for paper in held_out)
    share = sum(paper.share for paper in held_out) / len(held_out) if held_out else 0.0
    longest = max((paper.longest for paper in held_out), default=0)
    rows.append(_row("Held-out papers", len(held_out), long, share, longest))
    return table(("Text", "Copies", "Share", "Longest"), rows, caption="Text that stands in training papers too", kinds="tnnn")


def _row(label: str, texts: int, copies: int, share: float, longest: int) -> tuple[Content, ...]:
    compared = element("small", counted(texts, "text"), class_="under")
    return [label, compared], count(copies), percent(share, 1), counted(longest, "token") if longest else "none"


def _share(texts: Sequence[Continuation]) -> float:
    characters = sum(len(text.text) for text in texts)
    return sum(end - start for text in texts for start, end, _, _ in text.copies) / characters if characters else 0.0


def _spans(held_out: Sequence[Copied]) -> Markup | None:
    """Every copied span of the held-out papers, the longest first."""
    spans = sorted(((span, paper.name) for paper in held_out for span in paper.spans), key=lambda pair: -pair[0].tokens)
    if not spans:
        return None
    listed = element("ol", [_span(span, paper) for span, paper in spans[:_SHOWN]], class_="spans")
    over = len(spans) - _SHOWN
    more = element("p", f"{counted(over, 'shorter copy', 'shorter copies')} more in evaluation.json.") if over > 0 else None
    return folded(f"What held-out papers share with training papers: {counted(len(spans), 'copy', 'copies')}", listed, more)


def _span(span: CopiedSpan, paper: str) -> Markup:
    origin = element("p", f"{span.tokens} tokens, in ", name(paper), "; from ", name(span.origin), class_="origin")
    return element("li", element("blockquote", element("mark", span.text)), origin)


def _papers(held_out: Sequence[Copied]) -> Markup:
    ordered = sorted(held_out, key=lambda paper: -paper.longest)
    rows = [(name(paper.name), count(paper.longest), count(len(paper.spans)), percent(paper.share, 1)) for paper in ordered]
    heads = ("Paper", "Longest, tokens", "Copies", "Share")
    return long_list("Held-out papers one by one", heads, rows, kinds="tnnn", rest="evaluation.json")
