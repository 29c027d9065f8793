#!/usr/bin/env bash
# Makes the shipped toy checkpoints again: the world, the untrained models, and their training by
# `distill run --stages finetune`. Everything follows from toy/toy.toml and the runs' own TOML files beside it.
# usage: datasets/toy.sh [--install] [OUT] (default target/toy); the programs are in $BIN (default target/release).
# The results are in OUT/teacher-3/student and OUT/student/student; --install replaces the shipped ones by them. Takes
# about 45 minutes on 2 cores; stopped, the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
install=false
if [ "${1:-}" = "--install" ]; then install=true; shift; fi
out=${1:-target/toy}
bin=${BIN:-target/release}
world="$out/world"

# train RUN START SPLIT: the run of toy/RUN.toml, from a checkout, on a split of the world.
train() {
    "$bin/distill" run --config "datasets/toy/$1.toml" --student "$2" --data "$world/$3.json" \
        --image-root "$world" --out "$out/$1"
}

"$bin/toy" world --out "$world" overview train hard test
"$bin/toy" model teacher --out "$out/teacher-untrained"
"$bin/toy" model student --out "$out/student-untrained"
train teacher "$out/teacher-untrained" overview
train teacher-2 "$out/teacher/student" train
train teacher-3 "$out/teacher-2/student" hard
train student "$out/student-untrained" overview
for run in teacher-3 student; do
    "$bin/distill" eval --model "$out/$run" --data "$world/test.json" --image-root "$world" --max-new-tokens 100
done
if $install; then
    rm -rf datasets/toy/teacher datasets/toy/student
    cp -r "$out/teacher-3/student" datasets/toy/teacher
    cp -r "$out/student/student" datasets/toy/student
fi
