#!/usr/bin/env bash
# What the training loop promises on real cards, in ten minutes: benchmarks/loop_on_gpu.sh one|two WORK [OUT]
#
#   one   a GPU: the tests, the kernels one by one, the price of a checkpoint, estimates against the run, kill and resume with less memory, the benchmark, the smoke test
#   two   two GPUs or more: speed and losses against one, and going on with another number of them
#
# WORK needs 20 GB for a model of random weights. Each part goes on when another fails; rows of JSON are printed, and gathered in OUT/rows.jsonl.
set -uo pipefail
cd "$(dirname "$0")/.."
what=$1 work=$2 out=${3:-$2}
export PYTHONPATH="src:.:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 PAPERTUNE_CACHE="$work/cache"
model=$work/mistral
mkdir -p "$work" "$out"

part() {
    local name=$1
    shift
    echo "── $name: $*"
    SECONDS=0
    timeout 300 "$@" 2>"$out/$name.err" | tee "$out/$name.out" | tail -n 25
    echo "── $name ended with ${PIPESTATUS[0]} after $SECONDS s"
    grep -h '^{"benchmark"' "$out/$name.out" >>"$out/rows.jsonl"
    tail -n 4 "$out/$name.err"
}

[ -d "$model" ] || part model python benchmarks/make_random_mistral.py "$model"
if [ "$what" = one ]; then
    part tests python -m pytest -q -m gpu tests/kernels tests/stages/test_train_gpu.py
    part kernels python benchmarks/bench_kernels.py --out "$out/kernels.jsonl"
    part checkpoint python benchmarks/bench_checkpoint.py --work "$work/checkpoint"
    part resume python benchmarks/bench_real_size.py --model "$model" --work "$work/resume" --cap-gib 7.2 --cap-gib-after 6.2 --steps 24 --kill-at 14
    part train python benchmarks/bench_train.py --model "$model" --work "$work/train" --steps 80
    part train-7 python benchmarks/bench_train.py --model "$model" --work "$work/train-7" --steps 40 --cap-gib 7.2 --multiprocessors 8
    data=(--model "$model" --train-file "$work/train/dataset/train.jsonl" --val-file "$work/train/dataset/val.jsonl")
    part benchmark python finetune/finetune.py "${data[@]}" --benchmark
    part smoke python finetune/finetune.py "${data[@]}" --output-dir "$work/smoke" --epochs 1 --max-seq-len 256
else
    part team python benchmarks/bench_team.py --model "$model" --work "$work/team" --grad-accum 4 16 --steps 24
fi
