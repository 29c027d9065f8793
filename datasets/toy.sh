#!/usr/bin/env bash
# Makes the shipped toy checkpoints again: the world, the untrained models, and their training by
# `distill run --stages finetune`. Everything follows from toy/toy.toml, toy/teacher.toml and toy/student.toml.
# usage: datasets/toy.sh [OUT] (default target/toy); the programs are in $BIN (default target/release).
# The results are in OUT/teacher/student and OUT/student/student; --install replaces the shipped ones by them.
set -euo pipefail
cd "$(dirname "$0")/.."
install=false
if [ "${1:-}" = "--install" ]; then install=true; shift; fi
out=${1:-target/toy}
bin=${BIN:-target/release}

"$bin/toy" world --out "$out/world" train validation test
for name in teacher student; do
    "$bin/toy" model "$name" --out "$out/$name-untrained"
    "$bin/distill" run --config "datasets/toy/$name.toml" --student "$out/$name-untrained" \
        --data "$out/world/train.json" --image-root "$out/world" --out "$out/$name"
    "$bin/distill" eval --model "$out/$name" --data "$out/world/test.json" --image-root "$out/world"
    if $install; then
        rm -rf "datasets/toy/$name"
        cp -r "$out/$name/student" "datasets/toy/$name"
    fi
done
