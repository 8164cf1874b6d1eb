"""How fast, how lean and how right dataset preparation is. Needs the real papers beside the project, which are not part of it.

    python benchmarks/bench_dataset.py speed [--papers 600] [--megabytes 52] [--workers 2] [--times 1]
    python benchmarks/bench_dataset.py {leaks,chunks,tokens,duplicates,sentences,references}
    python benchmarks/bench_dataset.py bars

``bars`` runs all but ``speed``. ``speed`` prepares a recombined corpus (``corpus.py``) in processes of its own and samples the memory of all of
them; of several times the medians are told. ``leaks`` prepares the real papers with five seeds and looks for what validation and training share.
``chunks`` looks at every example of them, in short and long form. ``tokens`` compares ids with SentencePiece's own on the papers and on 100,000
strings of hostile Unicode, and the counts that chunks are cut by with what training reads. ``duplicates`` plants damaged copies among real and
recombined papers and compares every pair by brute force. ``sentences`` scores the rules on sentence ends that were labelled by reading
(``sentence_labels.json``: paper → block of the truth's ``main`` → all stops before white space, and those that end a sentence). ``references``
adds to each paper the reference list of its PDF, in several ways, and scores what is removed. Every row goes to ``results.jsonl`` beside this file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from corpus import TRUTH, real_papers, write_corpus
from results import record

from papertune.config import PrepareConfig
from papertune.dataset.duplicates import DUPLICATE, RELATED, kinship
from papertune.dataset.fingerprints import Hashes, letters, sample, shingles
from papertune.dataset.partitions import Partitions
from papertune.dataset.preparing import tokenizer_folder
from papertune.dataset.read import Block
from papertune.dataset.references import reference_blocks
from papertune.dataset.scratch import Scratch
from papertune.dataset.sentences import sentence_ends
from papertune.dataset.stage import run
from papertune.manifest import read_manifest
from papertune.prompts import GAP
from papertune.records import read_examples
from papertune.tokenizer import open_tokenizer
from papertune.train.batches import Sequences, read_sequences

CLOSES = ".?!:;…\"'”’)]0123456789"
LABELS = Path(__file__).with_name("sentence_labels.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    sub = verbs.add_parser("speed")
    sub.add_argument("--papers", type=int, default=600)
    sub.add_argument("--megabytes", type=float, default=52)
    sub.add_argument("--workers", type=int, default=2)
    sub.add_argument("--times", type=int, default=1)
    sub = verbs.add_parser("worker")
    sub.add_argument("folder", type=Path)
    sub.add_argument("out", type=Path)
    sub.add_argument("workers", type=int)
    right = {"leaks": leaks, "chunks": chunks, "tokens": tokens, "duplicates": duplicates, "sentences": sentences, "references": references}
    for verb in (*right, "bars"):
        verbs.add_parser(verb)
    args = parser.parse_args()
    if args.verb == "worker":
        worker(args)
    elif args.verb == "speed":
        record("dataset", {"kind": "speed", **speed(args)})
    else:
        for verb in right if args.verb == "bars" else [args.verb]:
            record("dataset", {"kind": verb, **right[verb]()})


def speed(args: argparse.Namespace) -> dict[str, Any]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # compiled once, as after an installation
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "text"
        write_corpus(folder, papers=args.papers, megabytes=args.megabytes)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        for k in range(args.times):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            begin = time.perf_counter()
            child = subprocess.Popen([sys.executable, __file__, "worker", str(folder), f"{scratch}/{k}", str(args.workers)], env=environ)
            peak = _peak_memory(child)
            if child.returncode:
                sys.exit(f"preparation failed with exit status {child.returncode}")
            wall = time.perf_counter() - begin
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            rows.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak))
    wall, cpu, peak = (statistics.median(column) for column in zip(*rows, strict=True))
    row = {"papers": args.papers, "megabytes": round(size, 1), "workers": args.workers, "times": args.times, "load": round(os.getloadavg()[0], 1)}
    return row | {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "mb_per_s": round(size / wall, 2), "peak_rss_mib": int(peak) >> 20}


def worker(args: argparse.Namespace) -> None:
    run(PrepareConfig(input_dir=args.folder, output_dir=args.out, workers=args.workers))


def _peak_memory(child: subprocess.Popen[bytes]) -> int:
    """The highest sum of the resident memory of the process and its children, in bytes, looked at every 50 ms until it ends."""
    import psutil

    process, peak = psutil.Process(child.pid), 0
    done = threading.Event()
    threading.Thread(target=lambda: (child.wait(), done.set()), daemon=True).start()
    while not done.wait(0.05):
        total = 0
        for each in _family(process):
            try:
                total += each.memory_info().rss
            except psutil.Error:
                continue
        peak = max(peak, total)
    return peak


def _family(process: Any) -> list[Any]:
    import psutil

    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


@contextmanager
def _prepared(**settings: Any) -> Iterator[Path]:
    """The real papers, prepared; the folder of the papers is ``text`` in it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "text"
        folder.mkdir()
        for name, text in real_papers().items():
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        run(PrepareConfig(input_dir=folder, output_dir=Path(scratch), **settings))
        yield Path(scratch)


def leaks() -> dict[str, Any]:
    row: dict[str, Any] = {"papers_on_both_sides": 0, "grams_shared": [], "val_share": []}
    for seed in range(5):
        with _prepared(seed=seed) as out:
            train, val = list(read_examples(out / "train.jsonl")), list(read_examples(out / "val.jsonl"))
        row["papers_on_both_sides"] += len({e.paper for e in train} & {e.paper for e in val})
        known = {gram for e in train for gram in _grams(e.text)}
        grams = [gram for e in val for gram in _grams(e.text)]
        row["grams_shared"].append(round(sum(gram in known for gram in grams) / len(grams), 6))
        row["val_share"].append(round(len(val) / (len(train) + len(val)), 4))
    return row


def chunks() -> dict[str, Any]:
    """Shares of the examples; of those of running text where sections and sentences are meant."""
    row: dict[str, Any] = {}
    tokenizer = open_tokenizer(tokenizer_folder("tiny"))
    for name, settings in (("", {}), ("2048_", {"chunk_size": 8000, "max_tokens": 2048}), ("4096_", {"chunk_size": 16000, "max_tokens": 4096})):
        shape = PrepareConfig(**settings)
        with _prepared(**settings) as out:
            train = list(read_examples(out / "train.jsonl"))
            examples = train + list(read_examples(out / "val.jsonl"))
            sequences = [read_sequences(out / file, tokenizer, shape.max_tokens) for file in ("train.jsonl", "val.jsonl")]
            texts = {path.stem: path.read_text(encoding="utf-8") for path in (out / "text").iterdir()}
        running = [e for e in examples if e.span]
        row |= {
            f"{name}examples": len(examples),
            f"{name}over_characters": sum(len(e.text) > shape.chunk_size for e in running),
            f"{name}over_tokens": sum(s.split for s in sequences),
            f"{name}tokens_each": round(sequences[0].tokens / len(sequences[0])),
            f"{name}end_on_heading": _share(e.text.rpartition("\n")[2].startswith("#") for e in running),
            f"{name}end_on_sentence": _share(e.text[-1] in CLOSES for e in running),
            f"{name}start_on_sentence": _share(_begins(texts[e.paper], e.span[0]) for e in running if e.span),
            f"{name}true_ends": sum(e.end for e in train),
            f"{name}true_ends_with_eos": sum(e.end and int(s.ids[-1]) == tokenizer.eos for e, s in zip(train, sequences[0].items, strict=True)),
            f"{name}whole_sections": _share(e.end and not e.prompt.endswith(GAP) for e in running),
            f"{name}padding_when_packed": _padding(sequences[0]),
        }
    return row


def _share(of: Iterable[bool]) -> float:
    each = list(of)
    return round(sum(each) / len(each), 5)


def _begins(text: str, start: int) -> bool:
    """Whether a sentence may begin here: a paragraph does, or a sentence has just ended."""
    before = text[:start].rstrip(" ")
    return not before or before[-1] == "\n" or before[-1] in CLOSES


def _padding(sequences: Sequences) -> float:
    """The share of what the packed micro-batches of an epoch hold that is no token of an example."""
    import torch

    from papertune.base import open_base
    from papertune.train.batches import Stream
    from papertune.train.fast.packing import pack
    from papertune.train.fast.shape import shape_of

    shape, stream = shape_of(open_base("tiny")), Stream(sequences, 0)
    steps = [stream.take(k, min(4, len(sequences) - k)) for k in range(0, len(sequences), 4)]
    packed = sum(len(pack(step, shape, torch.device("cpu"), 0)) for step in steps)
    return round(1 - sequences.tokens / packed, 5)


def tokens() -> dict[str, Any]:
    """Ids against SentencePiece's, counts against ids."""
    from sentencepiece import SentencePieceProcessor

    folder = tokenizer_folder("tiny")
    ours, theirs = open_tokenizer(folder), SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    draw = random.Random(7)
    papers = [block for text in real_papers().values() for block in text.split("\n\n")]
    alphabet = [
        *papers[1][:200],
        *"  \t\n\r\u00a0\u2009\u200b\u00ad\ufb01▁éßΩμ–—’“…中ا😀𝕏\x00\ufffd",
        "  ",
        "<s>",
        "</s>",
        "<0x0A>",
        "e\u0301",
        "## ",
        "…\n\n",
    ]
    fuzzed = [
        "".join(chr(draw.randrange(1, 0xD800)) if draw.random() < 0.1 else draw.choice(alphabet) for _ in range(draw.randint(0, 40)))
        for _ in range(100_000)
    ]
    strings = papers + fuzzed
    with _prepared() as out:
        whole = list(read_manifest(out / "dataset.json")[1].values())[-1]["files"]["train.jsonl"]["tokens"]
        read = read_sequences(out / "train.jsonl", ours, 512).tokens
    return {
        "paragraphs": len(papers),
        "fuzzed": len(fuzzed),
        "id_differences": sum(ours.encode(text) != theirs.encode(text) for text in strings),
        "counted_above_read": round(whole / read - 1, 5),
    }


def _grams(text: str) -> Iterator[int]:
    words = re.findall(r"\w+", text.lower())
    return (hash(tuple(words[k : k + 13])) for k in range(len(words) - 12))


def duplicates() -> dict[str, Any]:
    draw = random.Random(5)
    with tempfile.TemporaryDirectory() as scratch:
        write_corpus(Path(scratch), papers=135, megabytes=6)
        base = [*real_papers().values(), *(path.read_text(encoding="utf-8") for path in sorted(Path(scratch).iterdir()))]
    texts, planted = list(base), {}
    words = base[0].split()
    for k, text in enumerate(base):
        kind = ("misread", "edited", "part", "mixed")[k % 4]
        planted[len(texts)] = (k, kind)
        cut = int(len(text) * draw.uniform(0.05, 0.95))
        texts.append(
            {
                "misread": lambda t: "".join(draw.choice("etaoinshr") if c.isalpha() and draw.random() < 0.01 else c for c in t),
                "edited": lambda t: " ".join(draw.choice(words) if draw.random() < 0.05 else w for w in t.split(" ")),
                "part": lambda t: t[: max(2000, len(t) // 5)],
                "mixed": lambda t, cut=cut, k=k: t[:cut] + base[(k + 7) % len(base)][cut:],
            }[kind](text)
        )
    reduced = [letters(text) for text in texts]
    full = [np.unique(shingles(text)) for text in reduced]
    with tempfile.TemporaryDirectory() as folder, Scratch(Path(folder)) as disk:
        samples = Partitions(disk)
        for number, text in enumerate(reduced):
            samples.add(sample(text), number)
        found = kinship(samples, {number: len(text) for number, text in enumerate(reduced)}, lambda k: full[k])
    both, sizes = _intersections(full)
    jaccard, contained = both / (sizes[:, None] + sizes - both), both / np.minimum(sizes[:, None], sizes)
    copies = {copy.paper: copy for copy in found.copies}
    pairs = [(a, b) for a in range(len(texts)) for b in range(a)]
    near = [(a, b) for a, b in pairs if jaccard[a, b] >= 0.7]
    labelled = [c for c in found.copies if c.jaccard >= 0.7]
    group = found.group
    hit = Counter(kind for paper, (of, kind) in planted.items() if paper in copies or of in copies)
    return {
        "papers": len(texts),
        "near_pairs": len(near),
        "near_recall": sum(a in copies or b in copies for a, b in near) / len(near),
        "near_precision": sum(jaccard[c.paper, c.kept] >= 0.6999 for c in labelled) / len(labelled),
        "copies": len(copies),
        "copies_precision": sum(contained[c.paper, c.kept] >= DUPLICATE for c in found.copies) / len(copies),
        **{f"found_{kind}": f"{hit[kind]} of {sum(k == kind for _, k in planted.values())}" for kind in ("misread", "edited", "part", "mixed")},
        "duplicates_in_one_group": all(group[a] == group[b] for a, b in pairs if contained[a, b] >= DUPLICATE),
        "related_in_one_group": round(float(np.mean([group[a] == group[b] for a, b in pairs if contained[a, b] >= RELATED])), 4),
    }


def _intersections(full: list[Hashes]) -> tuple[np.ndarray, np.ndarray]:
    """How many shingles each pair of papers shares, by brute force; and how many each has."""
    owners = np.repeat(np.arange(len(full)), [len(hashes) for hashes in full])
    hashes = np.concatenate(full)
    order = np.argsort(hashes, kind="stable")
    owners, hashes = owners[order], hashes[order]
    edges = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1], append=~hashes[-1:]))
    both = np.zeros((len(full), len(full)))
    for low, high in itertools.pairwise(edges):
        both[np.ix_(owners[low:high], owners[low:high])] += 1
    return both, np.array([len(hashes) for hashes in full], dtype=float)


def sentences() -> dict[str, Any]:
    right = wrong = missed = total = 0
    for paper, blocks in json.loads(LABELS.read_text()).items():
        main_text = json.loads((TRUTH / f"{paper}.json").read_text(encoding="utf-8"))["main"]
        for number, (candidates, ends) in blocks.items():
            got = set(sentence_ends(" ".join(main_text[int(number)]["text"].split()))) & set(candidates)
            right += len(got & set(ends))
            wrong += len(got - set(ends))
            missed += len(set(ends) - got)
            total += len(candidates)
    return {"stops": total, "ends": right + missed, "wrong": wrong, "missed": missed, "f1": round(2 * right / (2 * right + wrong + missed), 4)}


def references() -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, heading in (("heading", 1), ("plain_line", 0), ("no_heading", None)):
        taken = entries = lost = running = 0
        for path in sorted(TRUTH.glob("*.json")):
            truth = json.loads(path.read_text(encoding="utf-8"))
            blocks = [Block(" ".join(b["text"].split()), 0, 0, int(b["kind"] == "heading")) for b in truth["main"] + truth["back"]]
            blocks = [block for block in blocks if block.text]
            before = len(blocks)
            listed = _reference_list(TRUTH.parent / "pdf" / f"{path.stem}.pdf")
            blocks += [Block("References", 0, 0, heading)] * (heading is not None) + [Block(entry, 0, 0) for entry in listed]
            found = reference_blocks(blocks)
            lost += sum(len(blocks[k].text) for k in found if k < before)
            running += sum(len(block.text) for block in blocks[:before])
            first = len(blocks) - len(listed)
            taken += sum(len(blocks[k].text) for k in found if k >= first)
            entries += sum(map(len, listed))
        row |= {f"{name}_recall": round(taken / entries, 4), f"{name}_text_lost": round(lost / running, 6)}
    return row


@cache
def _reference_list(pdf: Path) -> list[str]:
    """The entries under the last heading "References" of a PDF's text. What stands on the last pages after them is cut off where the last entry
    would become the longest."""
    import pypdfium2

    document = pypdfium2.PdfDocument(pdf)
    text = "\n".join(page.get_textpage().get_text_range().replace("\r", "") for page in document)
    headings = list(re.finditer(r"(?im)^\W*(references|bibliography|literature cited)\s*\n", text))
    entries: list[list[str]] = [[]]
    for line in text[headings[-1].end() :].split("\n") if headings else []:
        if re.match(r"\s*\[?\d{1,3}[.\])]?\s+[A-Z]", line):
            entries.append([])
        entries[-1].append(line.strip())
    listed = [entry for entry in (re.sub(r"\s+", " ", " ".join(lines)).strip() for lines in entries) if len(entry) > 20]
    if len(listed) > 1:
        listed[-1] = listed[-1][: max(map(len, listed[:-1]))]
    return listed


if __name__ == "__main__":
    main()
