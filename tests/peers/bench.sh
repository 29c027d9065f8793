#!/usr/bin/env bash
# The comparisons of docs/benchmarks.md, each a ratio within one run.
#   usage: tests/peers/bench.sh PYTHON DATA IMAGE_ROOT MODEL     DATA is LLaVA JSON; MODEL any Qwen2-VL checkout, of which
#   the tokenizer, template and image settings are taken (its weights only for the features of a training step)
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1 data=$2 images=$3 model=$4 toy=target/demo/world
"$python" tests/peers/bench_extract.py --processor "$model" --data "$data" --image-root "$images" --rows 48
"$python" tests/peers/bench_extract.py --millions 500 --processor "$model" --data "$data" --image-root "$images" --rows 16
"$python" tests/peers/bench_gguf.py --processor "$model" --data "$data" --image-root "$images"
"$python" tests/peers/bench_answers.py --processor "$model" --data "$data" --image-root "$images"
"$python" tests/peers/bench_step.py --large --teacher "$model" --student "$model" --data "$data" --image-root "$images" --rows 8 --steps 4
"$python" tests/peers/bench_stream.py --processor "$model" --data "$data" --image-root "$images" --rows 48
for key in memory.optimizer=bf16 memory.optimizer=f8 memory.recompute=never; do
  "$python" tests/peers/bench_step.py --large --teacher "$model" --student "$model" --data "$data" --image-root "$images" --rows 8 --steps 4 --set "$key"
done
target/release/toy world --out "$toy" demo
"$python" tests/peers/bench_step.py --teacher datasets/toy/teacher --student datasets/toy/student --data "$toy/demo.json" --image-root "$toy" --steps 20
"$python" tests/peers/bench_cache.py
for script in bench_experiment.py "bench_growth.py --out docs/growth"; do
  "$python" tests/peers/$script --processor "$model" --data "$data" --image-root "$images"
done
