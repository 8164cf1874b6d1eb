"""The exported models: how large, of what, and whether they say what the tuned model says."""

from __future__ import annotations

from papertune.report.charts import bar
from papertune.report.facts import Absent, Facts, Gguf
from papertune.report.markup import Markup, element
from papertune.report.parts import figures, folded, missing, name, not_yet, section, table
from papertune.report.words import count, counted, fixed, percent, size

ID, TITLE = "export", "Export"


def export(facts: Facts) -> Markup:
    there = [gguf for gguf in facts.ggufs if isinstance(gguf, Gguf)]
    lacking = [gguf for gguf in facts.ggufs if isinstance(gguf, Absent)]
    if not there:
        return missing(ID, TITLE, lacking[0])
    lead = f"{counted(len(there), 'GGUF file')} for llama.cpp and Ollama."
    return section(ID, TITLE, lead, [_file(gguf) for gguf in there], [not_yet(absent.why, absent.command) for absent in lacking])


def _file(gguf: Gguf) -> Markup:
    facts = figures(
        [
            ("Quantisation", gguf.quant),
            ("Size", size(gguf.size)),
            ("Bits a weight", fixed(gguf.bits_per_weight, 2)),
            ("Weights", count(sum(group.weights for group in gguf.groups))),
            ("Context", counted(gguf.context, "token")),
            ("Name", name(gguf.name)),
        ]
    )
    return element(
        "article",
        element("h3", name(str(gguf.file))),
        _check(gguf),
        facts,
        element("p", "SHA-256 ", element("code", gguf.sha256, class_="long")),
        _tensors(gguf),
    )


def _check(gguf: Gguf) -> Markup:
    """The comparison with the model it was made from, which export makes before the file gets its name."""
    found = gguf.verified
    if found is None:
        return not_yet("No comparison with the tuned model is recorded.", "papertune export")
    lost = found["gguf_bits"] - found["model_bits"]
    return element(
        "p",
        element("b", "Checked. "),
        f"Run by llama.cpp it needs {fixed(found['gguf_bits'], 3)} bits a byte where the tuned model needs {fixed(found['model_bits'], 3)} "
        f"({fixed(abs(lost), 3)} {'more' if lost >= 0 else 'fewer'}), and has the same likeliest next token in "
        f"{percent(found['agreement'], 1)} of {counted(int(found['tokens']), 'place')}.",
        class_="good",
    )


def _tensors(gguf: Gguf) -> Markup:
    whole = sum(group.size for group in gguf.groups)
    rows = [(g.type, bar(g.size / whole), size(g.size), count(g.tensors), fixed(8 * g.size / g.weights, 2)) for g in gguf.groups]
    heads = ("Type", "(drawn to scale)", "Size", "Tensors", "Bits a weight")
    return folded("What it is made of", table(heads, rows, caption=f"Tensors of {gguf.file} by type", kinds="tcnnn"))
