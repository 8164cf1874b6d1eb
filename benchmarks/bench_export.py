"""How long an export takes, and in how much memory; how fast the quantisers are beside ggml's own.

    python benchmarks/bench_export.py export --base FOLDER [--adapter FOLDER] [--quant Q4_K_M] [--out FILE] [--verify]
    python benchmarks/bench_export.py usual --base FOLDER --adapter FOLDER
    python benchmarks/bench_export.py against --base FOLDER [--adapter FOLDER] [--pairs 3]
    python benchmarks/bench_export.py quantisers
    python benchmarks/bench_export.py model FOLDER --hidden 4096 --layers 32 --ffn 14336 --heads 32 --kv-heads 8

``export`` runs the step in a process of its own, with the verification that is its default where ``--verify`` is given, and loads the result in
llama.cpp; without ``--adapter`` it makes a random one of rank 16. ``worker`` is that process alone.
``usual`` is the chain that people follow today on the same input: transformers and PEFT merge and save the model, a converter writes a
16-bit GGUF, and ggml's C code (from xllamacpp, by ctypes, as many threads as cores) quantises that. ``against`` runs both, one after the
other and the first of a pair in turn, from the start of the interpreter to its end, and gives medians and the ratio of each pair; before
every run the base's files are read once, so that both begin with them in memory. ``model`` writes random weights in bf16.
Every row goes to ``results.jsonl`` beside this file.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from results import record

SEARCHES = {"Q4_K": (18, 22, 38), "Q5_K": (18, 17, 38), "Q6_K": (11, 19, 19)}  # operations a value and try, tries without and with a matrix
SHAPES = {"q_proj": "qh", "k_proj": "kh", "v_proj": "kh", "o_proj": "hq", "gate_proj": "fh", "up_proj": "fh", "down_proj": "hf"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("export", "usual", "worker", "against"):
        sub = verbs.add_parser(verb)
        sub.add_argument("--base", required=True)
        sub.add_argument("--adapter", type=Path)
        sub.add_argument("--quant", default="Q4_K_M")
        sub.add_argument("--out", type=Path, default=Path("bench.gguf"))
        sub.add_argument("--pairs", type=int, default=3)
        sub.add_argument("--verify", action="store_true")
    verbs.add_parser("quantisers")
    sub = verbs.add_parser("model")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--zeros", action="store_true", help="weights of zero in files with holes, which take no room: enough to measure memory")
    for name, default in (("hidden", 2048), ("layers", 22), ("ffn", 5632), ("heads", 32), ("kv-heads", 4)):
        sub.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    {"export": export, "usual": usual, "worker": worker, "against": against, "quantisers": quantisers, "model": model}[args.verb](args)


def export(args: argparse.Namespace) -> None:
    from papertune.export.check import load_gguf

    adapter = args.adapter or random_adapter(args.base, args.out.with_name(args.out.stem + "-adapter"))
    args.out.unlink(missing_ok=True)
    command = [sys.executable, __file__, "worker", "--base", args.base, "--adapter", str(adapter), "--quant", args.quant, "--out", str(args.out)]
    command += ["--verify"] * args.verify
    row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    begin = time.perf_counter()
    with load_gguf(args.out, 256) as gguf:
        row["load_s"] = round(time.perf_counter() - begin, 2)
        begin = time.perf_counter()
        row["text"] = gguf.generate("# On the structure of", 8, seed=0)
        row["generate_8_s"] = round(time.perf_counter() - begin, 2)
    record("export", {"kind": "export", **row})


def worker(args: argparse.Namespace) -> None:
    """One export, alone in this process, so that its peak memory is its own."""
    from papertune.config import ExportConfig
    from papertune.export.stage import run

    texts = validation_texts(args.out.with_name(args.out.stem + "-val.jsonl"))
    config = ExportConfig(lora_path=args.adapter, gguf_path=args.out, quant=args.quant, verify=args.verify, val_file=texts)
    row = measured(lambda: run(config))
    report = row.pop("value")
    row |= {"base": Path(args.base).name, "quant": args.quant, "verify": args.verify, "gguf_bytes": args.out.stat().st_size}
    row |= {name: figure for name, figure in report.summary if name != "GGUF"}
    print(json.dumps(row))


def validation_texts(path: Path) -> Path:
    """A validation file of four pieces of papertune's general text, so that verification compares four texts of 96 tokens, as with a user's own."""
    text = (resources.files("papertune.evaluate") / "general.txt").read_text(encoding="utf-8")
    path.write_text("".join(json.dumps({"text": text[i : i + 1000]}) + "\n" for i in range(0, 4000, 1000)))
    return path


def usual(args: argparse.Namespace) -> None:
    """Each stage in its own process; memory is the largest, time and bytes are sums."""
    folder = args.out.with_name(args.out.stem + "-usual")
    folder.mkdir(parents=True, exist_ok=True)
    total: dict[str, Any] = {"wall_s": 0.0, "cpu_s": 0.0, "peak_rss_mib": 0, "written_mib": 0}
    script = str(Path(__file__).with_name("usual_route.py"))
    for stage in ("merge", "convert", "quantise"):
        command = [sys.executable, script, stage, args.base, str(args.adapter), str(folder), args.quant]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        total[stage] = row
        for key in ("wall_s", "cpu_s", "written_mib"):
            total[key] = round(total[key] + row[key], 1)
        total["peak_rss_mib"] = max(total["peak_rss_mib"], row["peak_rss_mib"])
    record("export", {"kind": "usual", "base": Path(args.base).name, "quant": args.quant, **total})


def against(args: argparse.Namespace) -> None:
    adapter = args.adapter or random_adapter(args.base, args.out.with_name(args.out.stem + "-adapter"))
    folder = args.out.with_name(args.out.stem + "-usual")
    ours = [[sys.executable, __file__, "worker", "--base", args.base, "--adapter", str(adapter), "--quant", args.quant, "--out", str(args.out)]]
    script = str(Path(__file__).with_name("usual_route.py"))
    theirs = [[sys.executable, script, stage, args.base, str(adapter), str(folder), args.quant] for stage in ("merge", "convert", "quantise")]
    rows: dict[str, list[dict[str, float]]] = {"export": [], "usual": []}
    for pair in range(args.pairs):
        for route, commands in (("usual", theirs), ("export", ours)) if pair % 2 == 0 else (("export", ours), ("usual", theirs)):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            args.out.unlink(missing_ok=True)
            for file in Path(args.base).glob("*.safetensors"):
                file.read_bytes()
            rows[route].append(chain(commands))
            print(route, rows[route][-1], flush=True)
    medians = {route: {key: float(np.median([row[key] for row in found])) for key in found[0]} for route, found in rows.items()}
    times = {key: [round(u[key] / e[key], 2) for u, e in zip(rows["usual"], rows["export"], strict=True)] for key in medians["usual"]}
    record("export", {"kind": "against", "base": Path(args.base).name, "quant": args.quant, "pairs": args.pairs, **medians, "times": times})


def chain(commands: list[list[str]]) -> dict[str, float]:
    """Wall and CPU seconds of these processes one after the other, the largest peak memory, all bytes written; what they print is dropped."""
    total = {"wall_s": 0.0, "cpu_s": 0.0, "peak_rss_mib": 0.0, "written_mib": 0.0}
    for command in commands:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = json.loads(process.stdout.read().splitlines()[-1])
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{command}: status {status}")
        total["wall_s"] += round(time.perf_counter() - begin, 2)
        total["cpu_s"] += round(usage.ru_utime + usage.ru_stime, 2)
        total["peak_rss_mib"] = max(total["peak_rss_mib"], usage.ru_maxrss >> 10)
        total["written_mib"] += said["written_mib"]
    return total


def vector_operations() -> float:
    """Vector operations of single precision that this core does in a nanosecond: half products, half sums, nothing else, in as many lanes as
    the compiler takes (16 with AVX-512)."""

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def work(x, rounds, factor, term):  # type: ignore[no-untyped-def]
        for _ in range(rounds):
            for lane in range(128):
                a, b, c, d = x[0, lane], x[1, lane], x[2, lane], x[3, lane]
                e, f, g, h = x[4, lane], x[5, lane], x[6, lane], x[7, lane]
                for _ in range(8):
                    a, b, c, d = a * factor + term, b * factor + term, c * factor + term, d * factor + term
                    e, f, g, h = e * factor + term, f * factor + term, g * factor + term, h * factor + term
                x[0, lane], x[1, lane], x[2, lane], x[3, lane] = a, b, c, d
                x[4, lane], x[5, lane], x[6, lane], x[7, lane] = e, f, g, h

    x, rounds = np.ones((8, 128), np.float32), 10_000
    run = partial(work, x, rounds, np.float32(1), np.float32(0))
    run()
    assert "zmm" in next(iter(work.inspect_asm().values())), "this limit is for AVX-512"
    return rounds * 128 // 16 * 8 * 8 * 2 / least_seconds(run) / 1e9


def quantisers(_args: argparse.Namespace) -> None:
    from papertune.export.quantize.kernels import compile_for, quantize
    from papertune.export.quantize.types import TYPES

    ggml = ggml_quantizer()
    rows, columns = 256, 4096
    random = np.random.default_rng(0)
    values = (random.standard_normal((rows, columns)) * 0.02).astype(np.float32)
    weights = (random.random(columns) ** 4).astype(np.float32)
    rate = vector_operations()
    record("export", {"kind": "limit", "vector_operations_per_ns": round(rate, 1), "lanes": 16})
    for importance in (None, weights):
        compiling = compile_for(TYPES.values(), importance=importance is not None)
        record("export", {"kind": "compile", "importance": importance is not None, "seconds": round(compiling, 2)})
        for kind in TYPES.values():
            if kind.block == 1:
                continue
            ours, theirs = np.empty(rows * kind.row_bytes(columns), np.uint8), np.empty(rows * kind.row_bytes(columns), np.uint8)
            fast = least_seconds(partial(quantize, kind, values, ours, importance)) / values.size * 1e9
            slow = least_seconds(partial(ggml, kind.number, values, theirs, importance)) / values.size * 1e9
            row = {"type": kind.name, "importance": importance is not None, "ns_per_value": round(fast, 2), "ggml_ns_per_value": round(slow, 2)}
            if kind.name in SEARCHES:
                operations, plain, weighted = SEARCHES[kind.name]
                row["avx512_limit_ns"] = round(operations * (plain if importance is None else weighted) / 16 / rate, 2)
            record("export", {"kind": "quantiser", **row, "times": round(slow / fast, 2), "identical": bool((ours == theirs).all())})


def least_seconds(work: Callable[[], Any], rounds: int = 5) -> float:
    """CPU seconds of the quickest of some rounds on this thread."""
    seconds = []
    for _ in range(rounds):
        begin = time.thread_time()
        work()
        seconds.append(time.thread_time() - begin)
    return min(seconds)


def ggml_quantizer() -> Callable[..., None]:
    """ggml's own ``ggml_quantize_chunk`` out of xllamacpp."""
    spec = find_spec("xllamacpp")
    assert spec is not None
    assert spec.submodule_search_locations
    library = ctypes.CDLL(str(next(Path(spec.submodule_search_locations[0]).glob("xllamacpp*.so"))))
    function = library.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def quantize(number: int, values: np.ndarray, out: np.ndarray, importance: np.ndarray | None = None) -> None:
        weights = None if importance is None else importance.ctypes.data
        function(number, values.ctypes.data, out.ctypes.data, 0, values.shape[0], values.shape[1], weights)

    return quantize


def measured(work: Callable[[], Any]) -> dict[str, Any]:
    """Wall and CPU seconds, peak memory and bytes written of ``work``; the process should do nothing else.

    ``peak_rss_mib`` is all that was resident at once, mapped pages of files among it, which the system may take back at any moment;
    ``peak_anonymous_mib`` is what it may not, looked up every few milliseconds.
    """
    wall, cpu, written = time.perf_counter(), time.process_time(), _written()
    with watching_anonymous() as seen:
        value = work()
    return {
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "peak_anonymous_mib": max(seen) >> 20,
        "written_mib": (_written() - written) >> 20,
        "value": value,
    }


@contextmanager
def watching_anonymous() -> Iterator[list[int]]:
    """The bytes of anonymous memory that this process has, again and again until the end. On systems without /proc, zeros."""
    seen, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            resident, files = map(int, Path("/proc/self/statm").read_text().split()[1:3])
            seen.append((resident - files) * resource.getpagesize())

    thread = threading.Thread(target=watch)
    if Path("/proc/self/statm").exists():
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        if thread.ident:
            thread.join()


def _written() -> int:
    """Bytes this process has handed to write(2)."""
    try:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except OSError:
        return 0
    return int(fields["wchar"])


def random_adapter(base: str, folder: Path, rank: int = 16) -> Path:
    from papertune.adapter import write_adapter
    from papertune.base import open_base
    from papertune.family import head_size, key_value_heads

    opened = open_base(base)
    config = opened.config
    heads = head_size(config)
    sizes = {"h": config["hidden_size"], "f": config["intermediate_size"]}
    sizes |= {"q": heads * config["num_attention_heads"], "k": heads * key_value_heads(config)}
    random = np.random.default_rng(0)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for projection, (rows, columns) in SHAPES.items():
            module = f"base_model.model.model.layers.{layer}.{opened.family.linear(projection)}"
            tensors[f"{module}.lora_A.weight"] = ((random.random((rank, sizes[columns])) * 2 - 1) / sizes[columns] ** 0.5).astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = (random.standard_normal((sizes[rows], rank)) * 0.01).astype(np.float32)
    modules = opened.family.projections
    write_adapter(folder, tensors, base_model=base, rank=rank, alpha=2 * rank, dropout=0.0, target_modules=modules, provenance={})
    return folder


def model(args: argparse.Namespace) -> None:
    """Random weights of these shapes, one shard a layer, with the built-in model's tokenizer."""
    from papertune.base import open_base
    from papertune.family import MISTRAL

    tiny = open_base("tiny")
    args.folder.mkdir(parents=True, exist_ok=True)
    sizes = {"hidden_size": args.hidden, "intermediate_size": args.ffn, "num_hidden_layers": args.layers}
    sizes |= {"num_attention_heads": args.heads, "num_key_value_heads": args.kv_heads, "head_dim": args.hidden // args.heads}
    config = {**tiny.config, **sizes, "sliding_window": 4096}
    (args.folder / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (args.folder / name).write_bytes((tiny.folder / name).read_bytes())
    width = config["head_dim"]
    extents = {"h": args.hidden, "f": args.ffn, "q": width * args.heads, "k": width * args.kv_heads}
    random = np.random.default_rng(0)
    groups: dict[str, list[str]] = {}
    for name, _ in MISTRAL.tensors(args.layers):
        groups.setdefault(name.split(".")[2] if "layers" in name else "whole", []).append(name)
    index: dict[str, str] = {}
    total = 0
    for number, names in enumerate(groups.values()):
        file = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        total += _write_random(args.folder / file, names, extents, config["vocab_size"], None if args.zeros else random)
        index |= dict.fromkeys(names, file)
    (args.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))
    print(f"{args.folder}: {total / 2e9:.2f} B values")


def _write_random(path: Path, names: list[str], extents: dict[str, int], vocabulary: int, random: np.random.Generator | None) -> int:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    shapes = {}
    for name in names:
        part = name.split(".")[-2]
        shape = tuple(extents[k] for k in SHAPES[part]) if part in SHAPES else (extents["h"],) if "norm" in part else (vocabulary, extents["h"])
        shapes[name] = shape
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if random is None:
            file.truncate(8 + len(text) + offset)
            return offset
        for shape in shapes.values():
            values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02) if len(shape) > 1 else np.ones(shape, np.float32)
            file.write(np.ascontiguousarray(values.view(np.uint32) >> 16, dtype=np.uint16).data)
    return offset


if __name__ == "__main__":
    main()
