"""``evaluation.json`` as a page to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ENDS = {"end": "ended", "heading": "went on to another section", "cut": "cut off"}


def in_words(figure: Mapping[str, Any], *, signed: bool = False) -> str:
    """A figure with its interval: ``1.795 (1.702 to 1.881)``; a change with its sign and percentage."""
    sign = "+" if signed else ""
    text = f"{figure['value']:{sign}.4f}"
    if figure["low"] is not None:
        text += f" ({figure['low']:{sign}.4f} to {figure['high']:{sign}.4f})"
    return f"{text}, {figure['percent']:+.2f} %" if "percent" in figure else text


def writing_in_words(model: Mapping[str, Any], writing: Mapping[str, Any]) -> str:
    """How a model wrote the sections, in a line."""
    ends = ", ".join(f"{model['ends'][end]} {what}" for end, what in _ENDS.items())
    return f"{ends}; {model['words']:.0f} words a section, its author {writing['authors']['words']:.0f}; rep-4 {model['rep_4']:.1%}"


def as_markdown(results: Mapping[str, Any], kinds: tuple[str, ...]) -> str:
    """Tables of all models and changes, and of every held-out paper."""
    lines = ["# Evaluation", "", f"Bits per byte, windows of {results['context']} tokens; lower is better. In brackets: 95 % intervals by paper."]
    lines += ["", _row("model", *kinds), _row(*["---"] * (1 + len(kinds)))]
    lines += [_row(model["name"], *(in_words(model[kind]) for kind in kinds)) for model in results["models"]]
    if results["changes"]:
        lines += ["", "## Changes", "", _row("from", "to", *kinds), _row(*["---"] * (2 + len(kinds)))]
        lines += [_row(c["from"], c["to"], *(in_words(c[kind], signed=True) for kind in kinds)) for c in results["changes"]]
    if results["writing"]:
        lines += ["", *_writing(results["writing"])]
    lines += ["", "## Papers", "", _row("paper", "bytes", *(model["name"] for model in results["models"]))]
    lines += [_row(*["---"] * (2 + len(results["models"])))]
    for i, paper in enumerate(results["models"][0][kinds[0]]["papers"]):
        figures = [f"{model[kinds[0]]['papers'][i]['bits_per_byte']:.4f}" for model in results["models"]]
        lines.append(_row(paper["name"], str(paper["bytes"]), *figures))
    return "\n".join(lines) + "\n"


def _writing(writing: Mapping[str, Any]) -> list[str]:
    count = len(writing["sections"])
    lines = [
        "## Writing",
        "",
        f"{count} sections of the held-out papers, written anew from title and headings; up to {writing['most_tokens']} tokens.",
    ]
    lines += ["", _row("writer", *_ENDS.values(), "words", "rep-2", "rep-4", "distinct-1", "distinct-2"), _row(*["---"] * 9)]
    for writer in ({"name": "the authors", **writing["authors"]}, *writing["models"]):
        ends = [str(writer["ends"][end]) if "ends" in writer else "" for end in _ENDS]
        shares = [f"{writer[key]:.1%}" for key in ("rep_2", "rep_4", "distinct_1", "distinct_2")]
        lines.append(_row(writer["name"], *ends, f"{writer['words']:.0f}", *shares))
    return lines


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
