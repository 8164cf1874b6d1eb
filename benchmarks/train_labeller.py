"""Trains the line labeller of ``papertune.extract.layout`` on papers whose publishers give the text as XML.

    python -m benchmarks.train_labeller PAPERS [--folds 8 | --by-publisher] [--write] [--documents FOLDER]

PAPERS holds ``pdf/ID.pdf``, ``truth/ID.json``, ``ATTRIBUTION.tsv`` and ``score.py``. Lines get weak labels: the kind of truth that shares most of a
line's 8-letter sequences. Papers of one publisher never stand on both sides of a fold. ``--documents`` writes each paper's running text and blocks
twice, as labelled by the fold that has not seen its publisher and by the shipped labeller, which has seen them all, and prints the scores of both.
``--write`` trains on all papers and writes ``labeller.npz``. Needs lightgbm, and rapidfuzz for the scores; what it writes needs numpy only.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from benchmarks.bench_extract import sidecar_scores
from papertune.extract.backends.fast import pages_of
from papertune.extract.layout import labeller, patterns, rows_and_body
from papertune.extract.layout.blocks import blocks_of_rows
from papertune.extract.layout.features import features_of
from papertune.extract.layout.hyphens import Vocabulary
from papertune.extract.layout.kinds import kinds_of_labels
from papertune.extract.layout.setting import Body, Row
from papertune.records import Block, Document, Kind

LABELS = labeller.LABELS
GRAM = 8  # letters
SURE, UNLIKE = 0.5, 0.3  # share of a line's sequences found in a kind of truth: enough for its label, too few for any
CELL, SHORT = 0.9, 30  # share of its sequences in a table or caption, and letters, for which a line may not be text
LINES_OF_HEADING = 6
TAIL = 25  # rows at the end of a paper that may stand behind the references
ONE_PUBLISHER = {"Hindawi Publishing Corporation": "Hindawi", "Nature Publishing Group UK": "Nature", "Nature Publishing Group": "Nature",
                 "Springer US": "Springer", "Springer Singapore": "Springer"}  # fmt: skip
ROUNDS = 70
WEIGHTS = {"title": 4.0, "heading": 4.0, "caption": 2.0, "back": 3.0}  # rare, and a mistake costs more
SETTINGS = {
    "objective": "multiclass", "num_class": len(LABELS), "learning_rate": 0.1, "num_leaves": 31, "max_depth": 7, "min_data_in_leaf": 30,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.7, "bagging_freq": 1, "lambda_l2": 5, "max_bin": 63, "num_threads": 1, "seed": 1, "deterministic": True, "verbose": -1,
}  # fmt: skip


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text).lower())


def unnumbered(text: str) -> str:
    return re.sub(r"^[\divx]+(?=[a-z])", "", text)


def grams(texts: Sequence[str]) -> set[str]:
    return {text[at : at + GRAM] for text in map(letters, texts) for at in range(len(text) - GRAM + 1)}


def rows_of_headings(texts: Sequence[str], headings: Sequence[str]) -> set[int]:
    """The rows that together are a heading of several lines, none of them long enough to tell."""
    wanted = set(headings)
    longest = max(map(len, wanted), default=0)
    found: set[int] = set()
    for start in range(len(texts)):
        text = unnumbered(texts[start])
        for end in range(start + 1, min(start + LINES_OF_HEADING, len(texts))):
            text += texts[end]
            if len(text) > longest:
                break
            if text in wanted and texts[start] and texts[end]:
                found.update(range(start, end + 1))
    return found


def weak_labels(truth: dict[str, Any], rows: Sequence[Row]) -> list[str | None]:
    """A label for each row; None where the truth does not tell."""
    headings = [unnumbered(letters(block["text"])) for block in truth["main"] if block["kind"] == "heading"][1:]
    back_headings = {letters(block["text"]) for block in truth["back"] if block["kind"] == "heading"}
    title = letters(truth["title"])
    kinds = {
        "paragraph": grams([block["text"] for block in truth["main"] if block["kind"] == "paragraph"]),
        "caption": grams(truth["captions"]),
        "reference": grams(truth["references"]),
        "back": grams([block["text"] for block in truth["back"]]),
        "table": grams([truth["tables"]]),
    }
    heads_of_references = [index for index, row in enumerate(rows) if patterns.REFERENCES.fullmatch(row.line.text)]
    references = heads_of_references[-1] if heads_of_references else len(rows)
    whole = rows_of_headings([letters(row.line.text) for row in rows], headings)
    found: list[str | None] = []
    for index, row in enumerate(rows):
        text = letters(row.line.text)
        bare = unnumbered(text)
        pieces = [text[at : at + GRAM] for at in range(len(text) - GRAM + 1)]
        share = {kind: sum(piece in known for piece in pieces) / max(1, len(pieces)) for kind, known in kinds.items()}
        best = max(share, key=lambda kind: share[kind])
        inside = len(bare) >= 10 and any(bare in heading and len(bare) >= len(heading) / 4 for heading in headings)
        if not text:
            label = "other"
        elif row.line.page == 1 and len(text) > GRAM and text in title and row.line.size > 11:
            label = "title"
        elif index == references:
            label = "reference"
        elif (index in whole or (len(bare) > 3 and bare in {*headings, "abstract"})) and not (index > references and share["reference"] > SURE):
            label = "heading"
        elif index > 0.4 * len(rows) and {text, bare} & back_headings:
            label = "back"
        elif len(text) < GRAM:
            label = None
        elif inside and share["paragraph"] < 0.95:
            label = "heading"
        elif index > references and (share["reference"] > share[best] - 0.15 > 0.25 or (share[best] < 0.6 and index < len(rows) - TAIL)):
            label = "reference"
        elif best == "paragraph" and len(text) < SHORT and max(share["table"], share["caption"]) > CELL:
            label = None  # a cell, though the text has its words too
        else:
            label = best if share[best] >= SURE else "other" if share[best] < UNLIKE else None
        found.append(label)
    return found


def node_arrays(booster: lightgbm.Booster) -> dict[str, np.ndarray]:
    """The booster as the arrays of ``labeller.Forest``."""
    feature, threshold, left, right, value = [], [], [], [], []
    depth = 0

    def add(node: dict[str, Any], level: int) -> int:
        nonlocal depth
        depth = max(depth, level)
        at = len(feature)
        leaf = "leaf_value" in node
        feature.append(0 if leaf else node["split_feature"])
        threshold.append(0.0 if leaf else node["threshold"])
        value.append(node["leaf_value"] if leaf else 0.0)
        left.append(at)
        right.append(at)
        if not leaf:
            left[at] = add(node["left_child"], level + 1)
            right[at] = add(node["right_child"], level + 1)
        return at

    roots = [add(tree["tree_structure"], 0) for tree in booster.dump_model()["tree_info"]]
    # One step up: a value that equals the float64 threshold stays on its side.
    narrow = np.nextafter(np.array(threshold, np.float32), np.float32(np.inf))
    return {
        "feature": np.array(feature, np.int16), "threshold": narrow, "left": np.array(left, np.int32), "right": np.array(right, np.int32),
        "value": np.array(value, np.float32), "roots": np.array(roots, np.int32).reshape(-1, len(LABELS)), "depth": np.array(depth),
    }  # fmt: skip


def transitions_of(labels: Sequence[np.ndarray]) -> np.ndarray:
    """How much likelier each label is after another than anywhere, as logarithms; one is added to every count."""
    counts = np.ones((len(LABELS), len(LABELS)))
    for sequence in labels:
        for before, after in pairwise(sequence):
            if before >= 0 and after >= 0:
                counts[before, after] += 1
    after, anywhere = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum()
    return np.log(after / anywhere).astype(np.float32)


def train(features: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> lightgbm.Booster:
    x, y = np.vstack(features), np.concatenate(labels)
    weight = np.array([WEIGHTS.get(label, 1.0) for label in LABELS])[y]
    return lightgbm.train(SETTINGS, lightgbm.Dataset(x[y >= 0], y[y >= 0], weight=weight[y >= 0]), ROUNDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", type=Path)
    parser.add_argument("--folds", type=int, default=8)
    parser.add_argument("--by-publisher", action="store_true", help="one fold a publisher")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--documents", type=Path)
    args = parser.parse_args()

    with (args.papers / "ATTRIBUTION.tsv").open(encoding="utf-8") as file:
        publisher = {row["id"]: ONE_PUBLISHER.get(row["publisher"], row["publisher"]) for row in csv.DictReader(file, delimiter="\t")}
    papers, features, labels = {}, {}, {}
    for name in sorted(publisher):
        pages, _ = pages_of(args.papers / "pdf" / f"{name}.pdf")
        rows, body, aside = rows_and_body(pages)
        papers[name] = rows, body, aside
        features[name] = features_of(rows, body)
        truth = json.loads((args.papers / "truth" / f"{name}.json").read_text(encoding="utf-8"))
        labels[name] = np.array([LABELS.index(label) if label else -1 for label in weak_labels(truth, rows)])

    if args.write:
        booster = train(list(features.values()), list(labels.values()))
        target = Path(labeller.__file__).with_name("labeller.npz")
        np.savez_compressed(target, transitions=transitions_of(list(labels.values())), **node_arrays(booster))
        print(f"{target.name}: {target.stat().st_size} bytes")
        return

    publishers = sorted(set(publisher.values()))
    count = len(publishers) if args.by_publisher else args.folds
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for fold in range(count):
        held = {name for name in papers if publishers.index(publisher[name]) % count == fold}
        seen = [name for name in papers if name not in held]
        booster = train([features[name] for name in seen], [labels[name] for name in seen])
        transitions = labeller.TRUST_IN_SEQUENCE * transitions_of([labels[name] for name in seen])
        for name in sorted(held):
            rows, body, aside = papers[name]
            guessed = labeller.likeliest(np.log(np.asarray(booster.predict(features[name])) + 1e-9).astype(np.float32), transitions)
            for guess, label in zip(guessed, labels[name], strict=True):
                if label >= 0:
                    total[LABELS[label]] += 1
                    right[LABELS[label]] += guess == label
            if args.documents:
                guesses = [LABELS[guess] for guess in guessed]
                write_document(args.documents / "left-out", name, rows, kinds_of_labels(guesses, rows, body), body, aside)
    for label in LABELS:
        print(f"{label:10s} {right[label]:6d} of {total[label]:6d} lines  {right[label] / max(1, total[label]):.3f}")
    if args.documents:
        for name, (rows, body, aside) in papers.items():
            write_document(args.documents / "shipped", name, rows, labeller.kinds_of(rows, body)[0], body, aside)
        print_scores(args.papers, args.documents / "left-out", f"{count} folds, publishers left out")
        print_scores(args.papers, args.documents / "shipped", "the shipped labeller, on papers it has seen")


def write_document(folder: Path, name: str, rows: Sequence[Row], kinds: Sequence[Kind], body: Body, aside: Sequence[Block]) -> None:
    """The paper's running text and its blocks."""
    blocks = [*blocks_of_rows(rows, kinds, body, Vocabulary(row.line.text for row in rows)), *aside]
    document = Document(name, "", "fast", rows[-1].line.page, tuple(blocks))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(document.running_text(), encoding="utf-8")
    (folder / f"{name}.blocks.json").write_text(document.to_json(), encoding="utf-8")


def print_scores(papers: Path, folder: Path, of: str) -> None:
    print(f"── {of} ──", flush=True)
    subprocess.run([sys.executable, papers / "score.py", folder, "--truth", papers / "truth"], check=True)
    print(f"sidecar nid_full   mean {statistics.mean(sidecar_scores(papers, folder)):.3f}", flush=True)


if __name__ == "__main__":
    main()
