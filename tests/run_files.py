"""The files of a whole run of any size, as the steps write them but in a second: made-up papers, losses and figures."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

from papertune.adapter import WEIGHTS, write_adapter
from papertune.config import SEVEN_PROJECTIONS, ReportConfig
from papertune.export.gguf import Entry, head_bytes, lay_out, padded
from papertune.export.quantize.types import TYPES
from papertune.export.record import write_record
from papertune.export.verify import Verdict
from papertune.files import make_folder, write_text
from papertune.manifest import Manifest
from tests.papers import invented

HOSTILE = "</script></style></title><img src=x onerror=alert(1)>\"'><b>&amp;\x00\u202e"
MODEL = "c" * 64
_VOCABULARY = ("water", "in", "the", "stem", "of", "a", "tree", "falls", "as", "soil", "dries", "while", "roots", "close", "their", "channels")
_STATES = ("ok",) * 17 + ("partial", "damaged", "no_text")


def write_run(folder: Path, *, papers: int = 12, steps: int = 60, title: str = "", seed: int = 0) -> ReportConfig:
    """All files of a run over so many papers. ``title`` is put into every name, title and text that comes from outside."""
    draw = random.Random(seed)
    config = ReportConfig(
        output=folder / "report.html",
        text_dir=folder / "extracted_text",
        dataset_dir=folder / "dataset",
        lora_dir=folder / "lora_output",
        gguf=(folder / "model.gguf",),
        evaluation_dir=folder / "evaluation",
    )
    names = [f"paper-{k:03d}{title.replace('/', '')}" for k in range(papers)]
    header = _extraction(config.text_dir, names, title, draw)
    files = _dataset(config.dataset_dir, names, header, draw)
    adapter = _training(config.lora_dir, files, steps, draw)
    gguf = _gguf(config.gguf[0], files, adapter, title)
    _evaluation(config.evaluation_dir, config.gguf[0], names, adapter, gguf, title, draw)
    return config


def sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _extraction(folder: Path, names: list[str], title: str, draw: random.Random) -> dict[str, Any]:
    make_folder(folder)
    texts = invented(count=min(len(names), 20), seed=1)
    header = {"step": "extract", "engines": ["fast", "pypdf"], "min_length": 200, "inputs": [f"pdfs{title}"]}
    with Manifest(folder / ".resume.json", header) as manifest:
        for k, name in enumerate(names):
            state = _STATES[k % len(_STATES)]
            if state in ("ok", "partial"):
                write_text(folder / f"text-{k}.txt", texts[k % len(texts)].replace("# ", f"# {title}Paper {k}: ", 1) * draw.randint(1, 12))
            found = {"pages": draw.randint(4, 40), "chars": 9000, "engine": "fast"} if state in ("ok", "partial") else {"engine": "pypdf"}
            reason = "" if state == "ok" else f"page 3 cannot be read {title}"
            manifest.record(f"../pdfs/{name}.pdf", sha256=sha(name), size=700_000, state=state, reason=reason, output=f"text-{k}", **found)
    return header


def _dataset(folder: Path, names: list[str], extraction: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    make_folder(folder)
    settings = {"chunk_size": 2000, "overlap": 200, "val_ratio": 0.05, "max_samples": None, "max_tokens": 512, "seed": 0}
    header = {"step": "prepare", "code": 8, "settings": settings, "extraction": sha(json.dumps(extraction, sort_keys=True))}
    files: dict[str, Any] = {}
    for name in ("train.jsonl", "val.jsonl"):
        text = json.dumps({"text": name}) + "\n"
        write_text(folder / name, text)
        lengths = [max(0, int(draw.gauss(len(names) * (k / 30) ** 3, 2))) for k in range(33)]
        tokens = sum(k * 16 * count for k, count in enumerate(lengths))
        files[name] = {"sha256": sha(text), "bytes": len(text), "examples": sum(lengths), "tokens": tokens, "lengths": lengths}
    with Manifest(folder / "dataset.json", header) as manifest:
        for k, name in enumerate(names):
            state = "val" if k % 20 == 3 else "duplicate" if k % 50 == 7 else "train"
            of = {"of": names[0], "shared": 0.93, "jaccard": 0.81} if state == "duplicate" else {}
            manifest.record(name, source=f"{name}.pdf", sha256=sha(name), state=state, chunks=draw.randint(10, 90), **of)
        dropped = {"references": [len(names) * 9, len(names) * 9000], "notice": [len(names), len(names) * 400], "repeated": [12, 4000]}
        manifest.record("whole", states={"ok": len(names)}, val_papers=len(names) // 20, language="English", dropped=dropped, files=files)
    return files


def _training(folder: Path, files: dict[str, Any], steps: int, draw: random.Random) -> str:
    import numpy as np

    data = {f"{side}_data": files[f"{side}.jsonl"]["sha256"] for side in ("train", "val")}
    run = {"model": MODEL, **data, "epochs": 2, "lr": 2e-4, "batch": 4}
    every = max(1, steps // 20)
    lines = [{"event": "start", "step": 0, "device": "an RTX 3070, bfloat16", "engine": "fast", "gpu_memory": 8 << 30}]
    lines += [{"event": "validation", "step": 0, "loss": 2.51, "bits_per_byte": 0.81, "sequences": 128}]
    lines += [{"event": "plan", "step": 1, "layers": 32, "keep": 9, "offload": 0, "attention": 7, "stream_every": 2, "of_a_later_version": 1}]
    for step in range(1, steps + 1):
        done = step / steps
        loss = 1.9 + 0.6 * math.exp(-6 * done) + draw.gauss(0, 0.09)
        rate = 2e-4 * min(1, 20 * done) * (0.5 + 0.5 * math.cos(math.pi * done))
        speed, memory = draw.gauss(1100, 40), 7.1 * (1 << 30) + draw.random() * (1 << 26)
        lines.append(
            {"event": "step", "step": step, "loss": loss, "lr": rate, "gradient_norm": 1.0, "tokens_per_second": speed, "peak_memory": int(memory)}
        )
        if step % every == 0:
            held_out = 2.02 + 0.49 * math.exp(-5 * done)
            lines.append({"event": "validation", "step": step, "loss": held_out, "bits_per_byte": held_out * 0.32, "sequences": 128})
    write_text(make(folder) / "events.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    state = {"step": steps, "tokens": steps * 1600, "seconds": steps * 1.45}
    write_text(make(folder / f"checkpoint-{steps}") / "checkpoint.json", json.dumps({"version": 1, "state": state}))
    tensors = {f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight": np.ones((4, 4), np.float32) for half in "AB"}
    provenance = {"papertune": "0", "step": steps, "run": run, "bits_per_byte": {"before": 0.81, "after": 0.65}}
    write_adapter(
        folder / "final", tensors, base_model="mistralai/Mistral-7B-v0.1", rank=4, alpha=8, dropout=0.0, target_modules=SEVEN_PROJECTIONS,
        provenance=provenance,
    )  # fmt: skip
    return hashlib.sha256((folder / "final" / WEIGHTS).read_bytes()).hexdigest()


def _gguf(path: Path, files: dict[str, Any], adapter: str, title: str) -> str:
    tensors = lay_out([("token_embd.weight", (64, 256), TYPES["Q4_K"]), ("output.weight", (64, 256), TYPES["Q6_K"]), ("norm", (256,), TYPES["F32"])])
    own = {
        "adapter.sha256": adapter,
        "base": "mistralai/Mistral-7B-v0.1",
        "base.fingerprint": MODEL,
        "dataset.train.sha256": files["train.jsonl"]["sha256"],
        "dataset.val.sha256": files["val.jsonl"]["sha256"],
    }
    metadata = [
        Entry("general.architecture", "str", "llama"),
        Entry("general.name", "str", f"scientific-mistral{title}"),
        *(Entry(f"papertune.{key}", "str", value) for key, value in own.items()),
        Entry("llama.context_length", "u32", 32768),
        Entry("general.file_type", "u32", 15),
    ]
    head = head_bytes(metadata, tensors)
    data = head + bytes(sum(padded(tensor.size) for tensor in tensors))
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    write_record(path, head, len(data), digest, Verdict(384, 2.411, 2.446, 0.938))
    return digest


def _evaluation(folder: Path, path: Path, names: list[str], adapter: str, gguf: str, title: str, draw: random.Random) -> None:
    held_out, general = [n for k, n in enumerate(names) if k % 20 == 3], [f"built-in general text {k}" for k in range(1, 12)]
    base = {name: draw.uniform(0.68, 0.95) for name in [*held_out, *general]}
    models = []
    for name, kind, fingerprint in (
        ("mistralai/Mistral-7B-v0.1", "base", MODEL),
        ("mistralai/Mistral-7B-v0.1 + lora_output/final", "tuned", sha(MODEL + adapter)),
        (str(path), "gguf", gguf),
    ):
        model: dict[str, Any] = {"name": name, "kind": kind, "fingerprint": fingerprint}
        for of, texts in (("held-out papers", held_out), ("general text", general)):
            by = 0.0 if kind == "base" else -0.11 if of == "held-out papers" else 0.006
            papers = [{"name": text, "bytes": 40_000, "bits_per_byte": base[text] + by * draw.uniform(0.4, 1.6)} for text in texts]
            value = sum(p["bits_per_byte"] for p in papers) / len(papers)
            many = len(papers) > 1
            model[of] = {"value": value, "low": value - 0.03 if many else None, "high": value + 0.03 if many else None, "papers": papers}
        models.append(model)
    changes = [_change(models[0], models[1]), _change(models[1], models[2])]
    copy = {"tokens": 61, "from": f"{names[0]}.pdf, page 4", "text": _words(60, draw, title)}
    copies = [
        {"name": name, "share": 0.002 if k == 1 else 0.0, "longest": 61 if k == 1 else 9, "copies": [copy] if k == 1 else []}
        for k, name in enumerate(held_out)
    ]
    results = {
        "version": 1, "unit": "bits per byte", "context": 512, "seed": 0, "models": models, "changes": changes,
        "writing": _writing(models, held_out, names[0], title, draw),
        "copies": {"training_words": 7_900_000, "least_tokens": 50, "papers": copies},
    }  # fmt: skip
    write_text(make(folder) / "evaluation.json", json.dumps(results, indent=1))


def _writing(models: list[dict[str, Any]], papers: list[str], source: str, title: str, draw: random.Random) -> dict[str, Any]:
    """Six sections by every model; the tuned one copies in its second."""
    sections = [
        {"paper": papers[k % len(papers)], "prompt": f"# {title}On water\n\n## Introduction\n\n", "text": _words(60, draw, title)} for k in range(6)
    ]
    style = {"words": 84.2, "rep_2": 0.11, "rep_4": 0.013, "distinct_1": 0.31, "distinct_2": 0.82}
    written = []
    for model in models:
        texts: list[dict[str, Any]] = [{"text": _words(90, draw, title), "end": "end", "copies": []} for _ in sections]
        if model["kind"] == "tuned":
            start = texts[1]["text"].index(" ", 120) + 1
            texts[1]["copies"] = [{"start": start, "end": start + 90, "tokens": 55, "from": f"{source}.pdf, page 4"}]
        written.append({"name": model["name"], **style, "ends": {"end": 4, "heading": 1, "cut": 1}, "texts": texts})
    return {"most_tokens": 384, "sections": sections, "authors": style, "models": written}


def _change(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    change: dict[str, Any] = {"from": before["name"], "to": after["name"]}
    for of in ("held-out papers", "general text"):
        value = after[of]["value"] - before[of]["value"]
        many = before[of]["low"] is not None
        bounds = {"low": value - 0.01 if many else None, "high": value + 0.01 if many else None}
        change[of] = {"value": value, **bounds, "percent": 100 * value / before[of]["value"]}
    return change


def _words(count: int, draw: random.Random, title: str) -> str:
    return f"{title} {' '.join(draw.choices(_VOCABULARY, k=count))}.".strip().capitalize()


def make(folder: Path) -> Path:
    make_folder(folder)
    return folder
