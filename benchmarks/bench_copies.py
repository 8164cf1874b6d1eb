"""Is a text a copy? What is found, what is wrongly called one, and what it costs.

    python -m benchmarks.bench_copies PAPERS OUT [--megabytes 50] [--record]

PAPERS holds ``pdf/`` with the 65 papers. Ten of them are held back (``bench_domain``); the other 55, as extracted, are the training text.

    planted       paragraphs of the 55, verbatim but wrapped anew, each in the middle of a text of the ten: found, with paper and page?
    false alarms  copies of 50 tokens or more in the ten; then in each of the 65 against the other 64, with the names that both papers' authors share
    speed         a folder of so many megabytes, recombined from the papers, to an index: seconds and the process's largest memory
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.bench_domain import HELD_BACK
from benchmarks.corpus import write_corpus
from benchmarks.results import record
from papertune.base import open_base
from papertune.config import ExtractConfig
from papertune.extract import stage as extract
from papertune.records import Document
from papertune.tokenizer import open_tokenizer
from papertune.training_text import TrainingText

INDEXING = """
import json, resource, sys, time
from pathlib import Path
from papertune.training_text import TrainingText
began, cpu = time.monotonic(), time.process_time()
words = TrainingText(Path(sys.argv[1])).collection.words
scale = 1024 if sys.platform == "linux" else 1
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
print(json.dumps({"words": words, "wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu, "peak_mib": peak / 2**20}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    args = parser.parse_args()
    texts = args.out / "text"
    extract.run(ExtractConfig(input_dir=(args.papers / "pdf",), output_dir=texts, device="cpu", engine="fast"))
    for row in (planted(texts, args.out), false_alarms(texts, args.out), speed(args.out, args.megabytes)):
        if args.record:
            record("copies", row, "numpy")
        else:
            print(json.dumps(row, indent=1), flush=True)


def planted(texts: Path, out: Path) -> dict[str, Any]:
    """Every paragraph of 60 to 200 words that stands on one page, up to three a paper."""
    draw = random.Random(0)
    training, held = parted(texts, out, HELD_BACK)
    against = TrainingText(training, training)
    hosts = [path.read_text(encoding="utf-8").split("\n\n") for path in sorted(held.glob("*.txt"))]
    result: Counter[str] = Counter()
    for sidecar in sorted(training.glob("*.blocks.json")):
        document = Document.from_json(sidecar.read_text(encoding="utf-8"))
        able = [b for b in document.blocks if b.kind == "paragraph" and 60 <= len(b.text.split()) <= 200 and len({p.page for p in b.places}) == 1]
        for block in draw.sample(able, min(3, len(able))):
            host = draw.choice(hosts)
            half = len(host) // 2
            wrapped = textwrap.fill(block.text, draw.randint(40, 100), break_long_words=False, break_on_hyphens=False)
            found = against.compare("\n\n".join([*host[:half], wrapped, *host[half:]]), count).long
            result["planted"] += 1
            copy = next((f for f in found if letters(block.text) in letters(f.text)), None)
            if copy is not None:
                page = block.places[0].page
                result["found"] += 1
                result["right paper"] += copy.copy.paper == sidecar.name.removesuffix(".blocks.json")
                result["right page"] += copy.copy.pages == (page, page)
    return {"kind": "planted", **result}


def false_alarms(texts: Path, out: Path) -> dict[str, Any]:
    training, held = parted(texts, out, HELD_BACK)
    against = TrainingText(training)
    ten = [against.compare(path.read_text(encoding="utf-8"), count) for path in sorted(held.glob("*.txt"))]
    names = people(texts)
    pairs = []
    for path in sorted(texts.glob("*.txt")):
        training, held = parted(texts, out, (path.stem,))
        for found in TrainingText(training).compare((held / path.name).read_text(encoding="utf-8"), count).long:
            shared = sorted(names[path.stem] & names[found.copy.paper])
            print(f"{path.stem} from {found.copy.paper}, by {', '.join(shared) or 'nobody of both'}: {found.text[:80]}", flush=True)
            pairs.append({"paper": path.stem, "from": found.copy.paper, "tokens": found.tokens, "authors_of_both": len(shared)})
    return {
        "kind": "false alarms",
        "in_the_ten": sum(len(comparison.long) for comparison in ten),
        "longest_in_the_ten": max(comparison.longest for comparison in ten),
        "in_all": pairs,
    }


def speed(out: Path, megabytes: float) -> dict[str, Any]:
    corpus = out / f"corpus-{megabytes:g}"
    if not corpus.exists():
        write_corpus(corpus, papers=max(10, int(12 * megabytes)), megabytes=megabytes)
    size = sum(path.stat().st_size for path in corpus.glob("*.txt"))
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", INDEXING, corpus], text=True)) for _ in range(5)]
    middle = sorted(runs, key=lambda run: run["wall_s"])[2]
    return {"kind": "speed", "megabytes": round(size / 1e6, 1), **{key: round(value, 2) for key, value in middle.items()}}


def parted(texts: Path, out: Path, held_back: tuple[str, ...]) -> tuple[Path, Path]:
    """Folders of links: the training texts, the held-back ones."""
    folders = out / "training", out / "held"
    for folder, wanted in zip(folders, (False, True), strict=True):
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for path in texts.glob("PMC*"):
            if (path.name.split(".")[0] in held_back) == wanted:
                (folder / path.name).symlink_to(path.resolve())
    return folders


def people(texts: Path) -> dict[str, set[str]]:
    """By paper the capitalised words of the lines that name its authors, without those of more than four papers (University, India)."""
    words = {}
    for sidecar in sorted(texts.glob("*.blocks.json")):
        document = Document.from_json(sidecar.read_text(encoding="utf-8"))
        lines = [block.text for block in document.blocks if block.kind == "author"]
        words[sidecar.name.removesuffix(".blocks.json")] = set(re.findall(r"\b[A-Z][a-z]{3,}\b", " ".join(lines)))
    papers = Counter(word for some in words.values() for word in some)
    return {paper: {word for word in some if papers[word] <= 4} for paper, some in words.items()}


def letters(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def count(text: str) -> int:
    return len(TOKENIZER.encode(text))


TOKENIZER = open_tokenizer(open_base("tiny").folder)

if __name__ == "__main__":
    main()
