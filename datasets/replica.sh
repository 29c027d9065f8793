#!/usr/bin/env bash
# The replica: every table and figure of docs/replica.md, from the shipped ladder of models (replica/models; `make ladder` trains it
# again). The world, each teacher's features once, then grids of runs: replica/run.toml with each grid's own file over it.
# usage: datasets/replica.sh [--docs] [GRID...] (default: all); the programs are in $BIN (default target/release).
# Everything goes to target/replica, where the grids share their runs; --docs writes tables and figures into docs/ as well. Stopped,
# the same command goes on; docs/replica.md says how long it takes.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-target/release}
here=datasets/replica
write_docs=false
if [ "${1:-}" = "--docs" ]; then write_docs=true; shift; fi
grids=("$@")
[ ${#grids[@]} -gt 0 ] || grids=(methods figure1 grid ablations data)
# What the grids name; extracting and asking is done for these alone.
named() { for grid in "${grids[@]}"; do cat "$here/$grid.toml"; done | grep -oE "$1" | sort -u; }
out=target/replica
world="$out/world"
data=(--data "$world/distil.json" --image-root "$world")

if [ ! -f "$world/test.json" ]; then "$bin/toy" --manifest "$here/world.toml" world --out "$world" distil test; fi

# Each teacher answers for the questions before any student is trained: how far it is ahead of them.
for model in $(named 'datasets/replica/models/[a-z-]+'); do
    if [ ! -d "$model" ]; then
        echo "error: there is no \`$model\`" >&2
        echo "hint: train it: datasets/ladder.sh --install" >&2
        exit 1
    fi
done
for teacher in $(named 'replica/cache/[a-z]+' | sed 's#.*/##'); do
    model="$here/models/teacher-$teacher"
    "$bin/extract" run --teacher "$model" "${data[@]}" --features-all-for 2000 --out "$out/cache/$teacher"
    if [ ! -f "$out/teachers/$teacher/summary.json" ]; then
        "$bin/distill" eval --model "$model" --data "$world/test.json" --image-root "$world" --max-new-tokens 100 \
            --out "$out/teachers/$teacher"
    fi
done

for grid in "${grids[@]}"; do
    "$bin/distill" compare --config "$here/run.toml" --config "$here/$grid.toml"
done

# insert NAME FILE: the lines between <!-- NAME --> and the next <!-- end --> of docs/replica.md become the file's.
insert() {
    awk -v name="<!-- $1 -->" -v file="$2" '
        $0 == name { print; while ((getline line < file) > 0) print line; inside = 1; next }
        $0 == "<!-- end -->" { inside = 0 }
        !inside { print }' docs/replica.md >"$out/replica.md"
    mv "$out/replica.md" docs/replica.md
}

if $write_docs; then
    mkdir -p docs/replica
    for grid in "${grids[@]}"; do
        insert "$grid" "$out/$grid/compare.md"
        for figure in accuracy gain use use_and_gain; do
            if [ -f "$out/$grid/$figure.svg" ]; then cp "$out/$grid/$figure.svg" "docs/replica/$grid-$figure.svg"; fi
        done
    done
fi
