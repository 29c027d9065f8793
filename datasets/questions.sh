#!/usr/bin/env bash
# The replica on real data: any LLaVA JSON of questions about images. The ladder's large teacher learns from one part of it, and
# students are distilled from that teacher's features of the same part; the other part is asked.
# usage: datasets/questions.sh [--docs] DATA.json IMAGES; the programs are in $BIN (default target/release).
# Everything goes to target/replica/questions; --docs writes table and figures into docs/ as well. Stopped, the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
source datasets/tables.sh
[ $# -eq 2 ] || { echo "usage: datasets/questions.sh [--docs] DATA.json IMAGES" >&2; exit 2; }
world=target/replica/questions
mkdir -p "$world"
ln -sfn "$(realpath "$2")" "$world/images"
"$bin/toy" deal --data "$1" --every 2 --longest-answer 40 --seed 1 --out "$world"

# The ladder's models see 84 x 84 pixels. Here the teacher sees up to 64 cells of an image in its own proportions, and the
# student up to four tiles beside the whole.
sees() { # sees MODEL AS KEY VALUE...: a checkout with other processor settings
    local from=$here/models/$1 to=$world/$2
    shift 2
    rm -rf "$to"
    cp -r "$from" "$to"
    while [ $# -gt 0 ]; do
        sed -i "s/\"$1\": [a-z0-9]*/\"$1\": $2/" "$to/preprocessor_config.json"
        shift 2
    done
}
sees teacher-large teacher-before max_pixels 50176
sees student-medium student crop_to_patches true max_patches 4

train=(--data "$world/train.json" --image-root "$world/images")
"$bin/distill" run --config "$here/questions-teacher.toml" --student "$world/teacher-before" "${train[@]}" --out "$world/teacher"
"$bin/extract" run --teacher "$world/teacher/student" "${train[@]}" --features-all-for 2000 --out "$world/cache"
if [ ! -f "$world/teacher-answers/summary.json" ]; then
    "$bin/distill" eval --model "$world/teacher" --data "$world/test.json" --image-root "$world/images" --out "$world/teacher-answers"
fi
"$bin/distill" compare --config "$here/run.toml" --config "$here/questions.toml"
if $writes_docs; then write_docs target/replica questions; fi
