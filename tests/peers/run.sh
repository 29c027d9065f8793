#!/usr/bin/env bash
# Holds the programs to PyTorch and transformers, on the fixtures and the demo's results. Says what it skips.
#   usage: tests/peers/run.sh [PYTHON]      after `make demo`
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python3}
demo=${OUT:-target/demo}

has() { "$python" -c "import $1" 2>/dev/null; }

if has pyarrow; then
  "$python" tests/peers/cache.py
  "$python" tests/peers/read_cache.py "$demo/cache"
else
  echo "skipped: cache.py, read_cache.py ($python has no pyarrow)"
fi
if has "pyarrow, torch, torchvision, transformers, PIL"; then
  data="--data tests/fixtures/twin_step/data.json --image-root tests/fixtures/images"
  "$python" tests/peers/twin_step.py --teacher tests/fixtures/qwen2_vl --student tests/fixtures/internvl $data
  "$python" tests/peers/twin_step.py --teacher tests/fixtures/internvl --student tests/fixtures/qwen2_vl $data
  for answer in tokens student; do
    "$python" tests/peers/twin_step.py --teacher tests/fixtures/qwen2_vl --student tests/fixtures/internvl $data --answer "$answer"
  done
  "$python" tests/peers/lora.py --teacher tests/fixtures/qwen2_vl --student tests/fixtures/internvl $data
  if has num2words; then
    "$python" tests/peers/vary.py --rounds 1
    "$python" tests/peers/vary_step.py --rounds 24
  else
    echo "skipped: vary.py, vary_step.py ($python has no num2words)"
  fi
  [ -d "$demo/student" ] || target/release/distill export "$demo/genrecal" --out "$demo/student"
  # A student whose low-rank factors were merged into its weights, with 30 steps from the demo's cache.
  target/release/distill run --method sft --stages distill --cache "$demo/cache" --student datasets/toy/student --data "$demo/world/demo.json" \
    --image-root "$demo/world" --set 'distill.train=[]' --set distill.lora.rank=16 --set distill.steps=30 --out "$demo/lora"
  for exported in "$demo/student" "$demo/lora/student"; do
    "$python" tests/peers/check_export.py --model "$exported" --data "$demo/world/test.json" --image-root "$demo/world"
  done
else
  echo "skipped: twin_step.py, lora.py, check_export.py ($python lacks one of pyarrow, torch, torchvision, transformers, pillow)"
fi
