#!/usr/bin/env bash
# The comparisons of docs/benchmarks.md, each a ratio within one run.
#   usage: tests/peers/bench.sh PYTHON DATA [IMAGE_ROOT]     DATA is LLaVA JSON; images beside it unless told
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1 data=$2 images=${3:-$(dirname "$2")}
"$python" tests/peers/bench_extract.py --processor tests/fixtures/qwen2_vl --data "$data" --image-root "$images"
"$python" tests/peers/bench_step.py --teacher datasets/toy/teacher --student datasets/toy/student --data "$data" --image-root "$images"
