#!/usr/bin/env bash
# The whole method on the embedded toy: extract the shipped teacher's features once, distil the shipped
# student from them with the Recalibrator (genrecal) and, at the same steps on the same data, without a
# teacher (sft); then ask all of them the held-out questions.
# usage: datasets/demo.sh [OUT] (default target/demo); the programs are in $BIN (default target/release).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-target/demo}
bin=${BIN:-target/release}
toy=datasets/toy
started=$SECONDS
step() { printf '\n== %3d s  %s\n' $((SECONDS - started)) "$1"; }

step "the world: pictures, questions and answers"
"$bin/toy" world --out "$out/world" demo test
data=(--data "$out/world/demo.json" --image-root "$out/world")
test=(--data "$out/world/test.json" --image-root "$out/world")

step "the teacher, once: its features into a cache"
"$bin/extract" run --teacher "$toy/teacher" "${data[@]}" --features-all-for 1000 --out "$out/cache"

step "the student learns from the cache (genrecal: align, distill, finetune)"
"$bin/distill" run --config "$toy/genrecal.toml" --cache "$out/cache" --student "$toy/student" \
    "${data[@]}" --out "$out/genrecal"

step "the student learns from the same answers without a teacher (sft, as many steps)"
"$bin/distill" run --config "$toy/sft.toml" --cache "$out/cache" --student "$toy/student" \
    "${data[@]}" --out "$out/sft"

step "questions about objects in places where no training picture shows their kind"
"$bin/distill" eval --model "$toy/student" "${test[@]}" --max-new-tokens 100 --out "$out/eval-before"
"$bin/distill" eval --model "$out/sft" "${test[@]}" --max-new-tokens 100
"$bin/distill" eval --model "$out/genrecal" "${test[@]}" --max-new-tokens 100
"$bin/distill" eval --model "$toy/teacher" "${test[@]}" --max-new-tokens 100 --out "$out/eval-teacher"

step "the report"
"$bin/distill" report "$out/sft" "$out/genrecal" --eval "student before=$out/eval-before" \
    --eval "teacher=$out/eval-teacher" --title "GenRecal on the embedded toy" --out "$out/report.html"
step "done"
