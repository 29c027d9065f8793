#!/usr/bin/env bash
# Trains the ladder of models that the replica compares, from replica/world.toml and the runs' own TOML files beside it: three
# teachers and four students, of two architectures and two kinds of tokenizer.
# usage: datasets/ladder.sh [--install] [OUT] (default target/ladder); the programs are in $BIN (default target/release).
# The results are in OUT/MODEL/student; --install replaces the shipped ones by them. Two trainings run side by side, one thread
# each; all take about two hours on 2 cores. Stopped, the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
install=false
if [ "${1:-}" = "--install" ]; then install=true; shift; fi
out=${1:-target/ladder}
bin=${BIN:-target/release}
recipes=datasets/replica
world="$out/world"
toy() { "$bin/toy" --manifest "$recipes/world.toml" "$@"; }

# train RUN START SPLIT OUT [--set KEY=VALUE]: the run of RUN.toml, from a checkout, on a split of the world.
train() {
    local run=$1 start=$2 split=$3 to=$4
    shift 4
    "$bin/distill" run --config "$recipes/$run.toml" --student "$start" --data "$world/$split.json" \
        --image-root "$world" --out "$to" "$@"
}

# climb MODEL KIND RUN SPLIT [--set KEY=VALUE]: a model of the manifest through the first part of its kind's training, then through
# RUN.toml on a split, and its test.
climb() {
    local model=$1 kind=$2 second=$3 split=$4
    shift 4
    toy model "$model" --out "$out/$model-untrained"
    train "$kind-look" "$out/$model-untrained" look "$out/$model-look"
    train "$second" "$out/$model-look/student" "$split" "$out/$model" "$@"
    "$bin/distill" eval --model "$out/$model" --data "$world/test.json" --image-root "$world" --max-new-tokens 100
}

teacher() { climb "teacher-$1" teacher teacher-train train --set "finetune.steps=$2"; }
student() { climb "student-$1" student student-base base; }

toy world --out "$world" look train base test
export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-1}
teacher large 5000 >"$out/teacher-large.log" 2>&1 &
large=$!
teacher medium 4000
teacher small 4000
for size in large medium small kin; do student "$size"; done
wait "$large"
if $install; then
    rm -rf "$recipes/models"
    mkdir "$recipes/models"
    for model in teacher-{large,medium,small} student-{large,medium,small,kin}; do
        cp -r "$out/$model/student" "$recipes/models/$model"
    done
    # As it is after the first part, for early.toml.
    cp -r "$out/student-medium-look/student" "$recipes/models/student-medium-look"
fi
