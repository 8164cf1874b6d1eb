#!/usr/bin/env bash
# An export at Mistral-7B's true shapes on a machine with many cores, in about three minutes: benchmarks/export_on_gpu.sh WORK [OUT] [LAYERS]
#
# Three runs: the first also compiles the quantisers, the second finds them compiled, the third ends with the default verification in llama.cpp.
# A GPU only draws the random weights. WORK needs 20 GB and should be on a fast disk; rows of JSON are printed, and gathered in OUT/rows.jsonl.
set -uo pipefail
cd "$(dirname "$0")/.."
work=$1 out=${2:-$1} layers=${3:-32}
export PYTHONPATH="src:.:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 PAPERTUNE_CACHE="$work/cache"
model=$work/mistral
rows=benchmarks/results.jsonl
before=$(wc -l <$rows)
mkdir -p "$work" "$out"

export_once() {
    local name=$1
    shift
    echo "── $name"
    timeout 200 python benchmarks/bench_export.py export --base "$model" --out "$work/model.gguf" "$@" 2>"$out/$name.err"
    echo "── $name ended with $?"
    tail -n 4 "$out/$name.err"
}

[ -f "$model/config.json" ] || python benchmarks/make_random_mistral.py "$model" --layers "$layers"
export_once first
export_once again
export_once verified --verify
tail -n +$((before + 1)) $rows >"$out/rows.jsonl"
rm -r "$work/model.gguf" "$work/model-adapter"
