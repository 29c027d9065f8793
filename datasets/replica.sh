#!/usr/bin/env bash
# The replica: every table and figure of docs/replica.md, from the ladder of models in replica/models (`datasets/ladder.sh --install`
# trains it again). The world, each teacher's features once, then grids of runs: replica/run.toml with each grid's own file over it.
# usage: datasets/replica.sh [--docs] [GRID...] (default: all whose models are there); the programs are in $BIN (default target/release).
# Everything goes to target/replica, where the grids share their runs; --docs writes tables and figures into docs/ as well. Stopped,
# the same command goes on; docs/replica.md says how long it takes.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-target/release}
here=datasets/replica
write_docs=false
if [ "${1:-}" = "--docs" ]; then write_docs=true; shift; fi
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
[ $# -gt 0 ] || set -- methods figure1 grid ablations data
for grid in "$@"; do if has_models "$grid"; then grids+=("$grid"); fi; done
[ ${#grids[@]} -gt 0 ] || exit 1
out=target/replica
world="$out/world"
data=(--data "$world/distil.json" --image-root "$world")

if [ ! -f "$world/test.json" ]; then "$bin/toy" --manifest "$here/world.toml" world --out "$world" distil test; fi

# Each teacher answers for the questions before any student is trained: how far it is ahead of them.
for teacher in $(named 'replica/cache/[a-z]+' "${grids[@]}" | sed 's#.*/##'); do
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
