#!/usr/bin/env bash
# What docs/replica.md states beside its grids: `ladder`, what the models are right in, and `costs`, what a step of each method costs.
# usage: datasets/measures.sh [--docs] [ladder] [costs] (default: both); the programs are in $BIN (default target/release).
# Everything goes to target/replica, after `datasets/replica.sh methods`, whose world and cache are used; --docs writes the tables
# into docs/replica.md.
set -euo pipefail
cd "$(dirname "$0")/.."
source datasets/tables.sh
[ $# -gt 0 ] || set -- ladder costs
out=target/replica
world="$out/world"
[ -d "$out/cache/large" ] || { echo "there is no \`$out/cache/large\` (hint: datasets/replica.sh methods)" >&2; exit 1; }

# right MODEL SPLIT: the share of a split's questions that a model of the ladder is right in.
right() {
    local at="$out/ladder/$1-$2"
    if [ ! -f "$at/summary.json" ]; then
        "$bin/distill" eval --model "$here/models/$1" --data "$world/$2.json" --image-root "$world" \
            --max-new-tokens 100 --out "$at" >&2
    fi
    awk -F'[ ,:]+' '/^  "accuracy"/ { printf "%.1f %%", 100 * $3 }' "$at/summary.json"
}

# weights MODEL: how many millions of weights its float16 file has.
weights() {
    local file="$here/models/$1/model.safetensors" header
    header=$(od -An -t u8 -N 8 "$file")
    awk -v bytes="$(($(wc -c <"$file") - 8 - header))" 'BEGIN { printf "%.2f M", bytes / 2e6 }'
}

ladder() {
    local model
    [ -f "$world/validation.json" ] || "$bin/toy" --manifest "$here/world.toml" world --out "$world" validation
    echo "| model | weights | right on \`test\` (1,200 questions) | on \`validation\` (400, nothing held out) |"
    echo "|---|---|---|---|"
    for model in teacher-{large,medium,small} student-{large,medium,small,kin}; do
        echo "| $model | $(weights "$model") | $(right "$model" test) | $(right "$model" validation) |"
    done
}

# spent STEPS STAGE METHOD: seconds of processor time of a run on one thread.
spent() {
    local run="$out/costs/$3-$2-$1" log="$out/costs/log" keys=() TIMEFORMAT=%U
    rm -rf "$run"
    if [ "$2" = distill ]; then keys=(--set 'distill.train=["projector","body","head"]'); fi
    { time RAYON_NUM_THREADS=1 "$bin/distill" run --stages "$2" --method "$3" --set "$2.steps=$1" --set "$2.batch_size=32" "${keys[@]}" \
        --set eval.every=0 --student "$here/models/student-medium" --cache "$out/cache/large" --data "$world/distil.json" \
        --image-root "$world" --out "$run" >"$log" 2>&1; } 2>&1 || { tail -n 2 "$log" >&2; return 1; }
}

costs() {
    local row stage method long short seconds fine=
    mkdir -p "$out/costs"
    echo "| a step of | processor time, sft = 1 |"
    echo "|---|---|"
    for row in distill/sft distill/uld distill/multilevel_ot distill/alm distill/dskd align/genrecal distill/genrecal; do
        stage=${row%/*} method=${row#*/}
        short=$(spent 10 "$stage" "$method")
        long=$(spent 110 "$stage" "$method")
        seconds=$(awk -v a="$short" -v b="$long" 'BEGIN { print b - a }')
        fine=${fine:-$seconds}
        awk -v name="$method, $stage" -v s="$seconds" -v f="$fine" 'BEGIN { printf "| %s | %.2f |\n", name, s / f }'
    done
}

for table in "$@"; do
    "$table" >"$out/$table.md"
    cat "$out/$table.md"
    if $writes_docs; then insert "$table" "$out/$table.md"; fi
done
