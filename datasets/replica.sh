#!/usr/bin/env bash
# The replica: the table and figures of every grid in docs/replica.md, from the ladder of models in replica/models (`datasets/ladder.sh --install`
# trains it again). The world, each teacher's features once, then grids of runs: replica/run.toml with each grid's own file over it.
# usage: datasets/replica.sh [--docs] [GRID...] (default: all whose models are there); the programs are in $BIN (default target/release).
# Everything goes to target/replica, where the grids share their runs; --docs writes tables and figures into docs/ as well. Stopped,
# the same command goes on; docs/replica.md says how long it takes.
set -euo pipefail
cd "$(dirname "$0")/.."
source datasets/tables.sh
# named PATTERN GRID...: what the grids' files say that fits the pattern.
named() { local pattern=$1; shift; for grid in "$@"; do cat "$here/$grid.toml"; done | grep -oE "$pattern" | sort -u; }
# Whether the models of a grid are there; says which is not.
has_models() {
    local model
    for model in $(named "$here/models/[a-z-]+" "$1"); do
        [ -d "$model" ] || { echo "skipped: $1, there is no \`$model\` (hint: datasets/ladder.sh --install)" >&2; return 1; }
    done
}
grids=()
[ $# -gt 0 ] || set -- methods compute figure1 wrong rows updates answers data caches grid ablations early longer
for grid in "$@"; do if has_models "$grid"; then grids+=("$grid"); fi; done
[ ${#grids[@]} -gt 0 ] || exit 1
out=target/replica
world="$out/world"

for split in distil test distil-short test-short distil-wrong; do
    if [ ! -f "$world/$split.json" ]; then "$bin/toy" --manifest "$here/world.toml" world --out "$world" "$split"; fi
done

# cache TEACHER[-KIND]: what a teacher knows of the questions, once. Without a kind: all of it, lossless. int8 is rounded, answers has
# no question features; short is of the short answers, own of the teacher's own in their place, wrong of answers that are partly so.
cache() {
    local model="$here/models/teacher-${1%%-*}" data="$world/distil.json" more=(--features-all-for 2000)
    case $1 in
    *-int8) more+=(--codec int8) ;;
    *-answers) more=() ;;
    *-short | *-wrong) data="$world/distil-${1#*-}.json" ;;
    *-own)
        data="$out/$1.jsonl"
        "$bin/extract" answers --teacher "$model" --data "$world/distil-short.json" --image-root "$world" --metric conclusion \
            --max-new-tokens 100 --out "$data"
        ;;
    esac
    "$bin/extract" run --teacher "$model" --data "$data" --image-root "$world" "${more[@]}" --out "$out/cache/$1"
}

for name in $(named 'replica/cache/[a-z0-9-]+' "${grids[@]}" | sed 's#.*/##'); do cache "$name"; done

for grid in "${grids[@]}"; do
    "$bin/distill" compare --config "$here/run.toml" --config "$here/$grid.toml"
done

if $writes_docs; then write_docs "$out" "${grids[@]}"; fi
