"""What was made, for people: ``dataset_card.md`` in words, ``report.html`` to look at; both self-contained and the same for the same data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from papertune.dataset.filters import REASONS
from papertune.records import Example

_BARS = 24


@dataclass(frozen=True, slots=True)
class Contents:
    """What the two pages tell.

    ``papers``: (name, source, state, chunks) of each. ``copies``: (name, name of the one kept, shared part, Jaccard). ``whole``: the last item of the
    manifest. ``lengths``: how many training examples have each number of tokens. ``samples``: some examples.
    """

    papers: Sequence[tuple[str, str, str, int]]
    copies: Sequence[tuple[str, str, float, float]]
    whole: dict[str, Any]
    settings: dict[str, Any]
    lengths: Mapping[int, int]
    samples: Sequence[Example]

    def totals(self) -> list[tuple[str, str]]:
        train, val = self.whole["files"]["train.jsonl"], self.whole["files"]["val.jsonl"]
        share = val["examples"] / (train["examples"] + val["examples"])
        replay = self.whole["replay"]
        general = (
            [("General text", f"{replay['examples']:,} of the training examples, {replay['tokens']:,} tokens, from {replay['source']}")]
            if replay
            else []
        )
        return [
            ("Papers", f"{self.whole['states']['ok']:,}, of which {self.whole['val_papers']:,} for validation"),
            ("Training", f"{train['examples']:,} examples, {train['tokens']:,} tokens"),
            *general,
            ("Validation", f"{val['examples']:,} examples, {val['tokens']:,} tokens ({share:.2%} of the examples)"),
            ("Language", self.whole["language"] or "unclear"),
        ]

    def dropped(self) -> list[tuple[str, str, str]]:
        return [(f"{blocks:,}", f"{characters:,}", REASONS[reason]) for reason, (blocks, characters) in self.whole["dropped"].items()]


def card(contents: Contents) -> str:
    """The page in Markdown."""
    lines = ["# Dataset card", "", "Made by papertune from scientific papers, to fine-tune a language model on their text.", ""]
    lines += [f"* {name}: {_cell(figure)}" for name, figure in contents.totals()]
    lines += ["", "## How it was made", ""]
    lines += [
        "Papers are split as a whole: no paper, and no group of papers that share a tenth of their text, stands in both files. Chunks end where",
        "sentences end. `prompt` is read by the model and not learnt; `text` is learnt; after an `end` the end-of-text token follows.",
        "`source`, `sha256`, `pages` and `span` lead back to the paper.",
        "",
        "| setting | value |",
        "|---|---|",
        *[f"| `{name}` | {_cell(_words(value))} |" for name, value in contents.settings.items()],
    ]
    if dropped := contents.dropped():
        lines += ["", "## What was left out", "", "| paragraphs | characters | why |", "|---:|---:|---|"]
        lines += [f"| {blocks} | {characters} | {why} |" for blocks, characters, why in dropped]
    if contents.copies:
        lines += ["", "## Copies left out", "", "| paper | stands in | of its text | Jaccard |", "|---|---|---:|---:|"]
        lines += [f"| {_cell(name)} | {_cell(kept)} | {shared:.0%} | {jaccard:.2f} |" for name, kept, shared, jaccard in contents.copies]
    lines += ["", "## Validation papers", ""]
    lines += [f"* {_cell(name)} ({chunks} examples)" for name, _, state, chunks in contents.papers if state == "val"]
    lines += ["", "## Rights", "", "The text is the papers' own; their licences hold for it and for what is made from it.", ""]
    return "\n".join(lines)


def page(contents: Contents) -> str:
    """The page in HTML, without anything from elsewhere."""
    parts = ["<h1>Dataset</h1>", _table((), contents.totals())]
    parts += ["<h2>Tokens of the training examples</h2>", _histogram(contents.lengths, contents.settings["max_tokens"])]
    if dropped := contents.dropped():
        parts += ["<h2>Left out, by reason</h2>", _table(("paragraphs", "characters", "why"), dropped)]
    if contents.copies:
        rows = [(name, kept, f"{shared:.0%}", f"{jaccard:.2f}") for name, kept, shared, jaccard in contents.copies]
        parts += ["<h2>Copies of other papers, left out</h2>", _table(("paper", "stands in", "of its text", "Jaccard"), rows)]
    parts += ["<h2>Samples</h2><p>Grey is read, black is learnt, ⏹ is the end-of-text token.</p>", *map(_sample, contents.samples)]
    rows = [(name, source, state, str(chunks)) for name, source, state, chunks in contents.papers]
    parts += ["<h2>Papers</h2>", _table(("paper", "source", "state", "examples"), sorted(rows, key=lambda row: (row[2] == "train", row[2])))]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8">{_HEAD}<title>Dataset</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'


# Nothing is fetched, whatever a paper's text or name may hold.
_HEAD = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
)
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{padding:.15em .8em .15em 0;text-align:left;vertical-align:top}th{border-bottom:1px solid #999}"
    "pre{white-space:pre-wrap;border-left:3px solid #ccc;padding-left:1em;font:14px/1.5 Georgia,serif}.read{color:#888}h3{font-size:1em}"
)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in heads) + "</tr>" if heads else ""
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{head}\n{body}</table>"


def _histogram(lengths: Mapping[int, int], most: int) -> str:
    counts = [0] * _BARS
    for length, count in lengths.items():
        counts[min(_BARS - 1, length * _BARS // (most + 1))] += count
    highest = max(counts)
    bars = "".join(
        f'<rect x="{k * 30}" y="{160 - 150 * count / highest:.1f}" width="28" height="{150 * count / highest:.1f}" fill="#47a">'
        f"<title>{k * (most + 1) // _BARS} to {(k + 1) * (most + 1) // _BARS - 1} tokens: {count:,}</title></rect>"
        for k, count in enumerate(counts)
    )
    words = f'<text x="0" y="178">0</text><text x="{_BARS * 30}" y="178" text-anchor="end">{most} tokens</text>'
    return f'<svg viewBox="0 0 {_BARS * 30} 185" width="720" style="max-width:100%" role="img" fill="currentColor" font-size="13">{bars}{words}</svg>'


def _sample(example: Example) -> str:
    end = " ⏹" if example.end else ""
    pages = f", pages {example.pages[0]} to {example.pages[1]}" if example.pages else ""
    head = f"{example.id} ({example.source}{pages})"
    return f'<h3>{escape(head)}</h3><pre><span class="read">{escape(example.prompt)}</span>{escape(example.text)}{end}</pre>'


def _cell(text: str) -> str:
    """A name in Markdown: within its cell or line, and without markup of its own."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|").replace("`", "\\`").replace("[", "\\[")


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else "" if value is None else str(value)
