#!/usr/bin/env bash
# What a GPU makes of it all, in one table: make gpu-bench, after `make cuda` on any machine
#   usage: tests/gpu/bench.sh DEVICE [PYTHON]      DEVICE is cuda:N, or cpu for a rehearsal in tiny shapes
#
# Builds nothing. On the machine with the GPU it needs this repository's tests/ and Makefile, and target/gpu-bench.tgz, which
# `make cuda` leaves (for a CPU, target/release as `make build` does). Each part has a time limit of its own and says why it was
# skipped; all of them together end within TOTAL seconds. Random weights are made on the machine, in FOLDER (45 GB).
# Rows are in ROWS as soon as their part ends, fields between tabs, so that who stops all of it keeps them. ONLY, a regular
# expression such as `ceilings|parity`, leaves out parts of other names; speeds are compared with the ceilings, so name these too.
# CUDA's libraries (cuBLAS) come from the machine, or from the wheels that its torch has.
set -euo pipefail
cd "$(dirname "$0")/../.."
device=${1:-cuda:0} python=${2:-python3}
TOTAL=${TOTAL:-500}
ROWS=${ROWS:-target/gpu-bench.tsv}
began=$SECONDS

if [ "$device" = cpu ]; then
  programs=${PROGRAMS:-target/release}
  small=tiny large=tiny tiled=tiny-internvl largest=tiny rows="24 24 24 24 24" samples=4 steps=2 blocks=1 forget=()
else
  small=2b large=7b tiled=internvl-8b largest=72b rows="1536 512 384 2048 1280" samples=32 steps=4 blocks=16 forget=(--forget)
fi
read -r rows_small rows_large rows_tiled rows_streamed rows_largest <<< "$rows"

# Weights in memory where there is room for them: the disk is not what is measured.
free_kib() { df --output=avail "$1" 2>/dev/null | tail -1; }
base=${FOLDER:-}
if [ -z "$base" ]; then
  base=${TMPDIR:-/tmp}
  if [ "$device" != cpu ] && [ "$(free_kib /dev/shm || echo 0)" -gt 45000000 ]; then base=/dev/shm; fi
fi
folder=$(mktemp -d "$base/gpu-bench.XXXXXX")
trap 'rm -rf "$folder"' EXIT

if [ "$device" != cpu ]; then
  if [ -f target/gpu-bench.tgz ]; then
    # Not in FOLDER: from /dev/shm a container may run nothing.
    programs=$PWD/target/gpu-bench
    rm -rf "$programs" && mkdir -p "$programs" && tar -C "$programs" -xzf target/gpu-bench.tgz
  else
    programs=target/cuda
  fi
  wheels=$("$python" -c '
import glob, nvidia
print(":".join(folder for place in nvidia.__path__ for folder in sorted(glob.glob(place + "/*/lib"), reverse=True)))' 2>/dev/null || true)
  [ -z "$wheels" ] || export LD_LIBRARY_PATH="$wheels${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  # The driver keeps its translations of kernels there, so that one part alone waits for them.
  export CUDA_CACHE_PATH=${CUDA_CACHE_PATH:-$PWD/target/gpu-cache}
fi
[ -x "$programs/gpu_bench" ] || { echo "error: no program \`$programs/gpu_bench\`" >&2; echo "hint: \`make cuda\` makes it, or \`make build\` for DEVICE=cpu" >&2; exit 1; }
bench() { timeout 120 "$programs/gpu_bench" --device "$device" --programs "$programs" --folder "$folder" "$@"; }
bench probe || exit 1

table=$folder/table
mkdir -p "$(dirname "$ROWS")"
: > "$table"
: > "$ROWS"
failed=0
add() { tee -a "$table" "$ROWS" >&2; }
part() { # part SECONDS NAME COMMAND...: its rows, or why there are none
  local limit=$1 name=$2 left before=$SECONDS code=0; shift 2
  [[ $name =~ ${ONLY:-.} ]] || return 0
  left=$((TOTAL - (SECONDS - began)))
  if [ "$left" -lt 5 ]; then printf '%s\tskipped\tno time left\n' "$name" | add; return; fi
  [ "$limit" -le "$left" ] || limit=$left
  echo "== $name, at most $limit s" >&2
  timeout -k 5 "$limit" "$@" 2>&1 > "$folder/rows" | tee "$folder/errors" >&2 || code=${PIPESTATUS[0]}
  add < "$folder/rows"
  case $code in
    0) ;;
    3) printf '%s\tskipped\t%s\n' "$name" "$(tail -1 "$folder/errors")" | add ;;
    124 | 137) printf '%s\tskipped\tstopped after %s s\n' "$name" "$limit" | add ;;
    *) failed=1; printf '%s\tFAILED\t%s\n' "$name" "$(grep -m 1 -iE 'error|panicked' "$folder/errors" || tail -1 "$folder/errors")" | add ;;
  esac
  echo "== $name: $((SECONDS - before)) s" >&2
}
gpu_bench() { echo "$programs/gpu_bench" --device "$device" --programs "$programs" --folder "$folder"; }
# shellcheck disable=SC2046 # the words of the command
run() { part "$1" "$2" $(gpu_bench) "${@:3}"; }

peer() { part "$1" "$2" "$python" "tests/gpu/$3" --device "$device" --folder "$folder" "${@:4}"; }

run 60 "ceilings" ceilings
run 120 "parity" parity
run 60 "extract $small" extraction --size "$small" --rows "$rows_small"
run 80 "extract $large" extraction --size "$large" --rows "$rows_large"
run 80 "extract $tiled" extraction --size "$tiled" --rows "$rows_tiled" "${forget[@]}"
run 90 "stage distill" step --size "$small" --samples "$samples" --steps "$steps"
run 80 "streamed $large" streaming --size "$large" --rows "$rows_streamed" "${forget[@]}"
# The limit is to the weights what 40 GB are to the 145 of all blocks; a tenth of what is free stays for caches.
room=$(($(free_kib "$base" || echo 0) * 1024 / 10 * 9))
run 100 "streamed $largest, cut" streaming --size "$largest" --rows "$rows_largest" --share 0.276 --blocks "$blocks" --room "$room" "${forget[@]}"
peer 90 "PyTorch stage distill" torch_step.py
peer 80 "PyTorch extract" torch_peer.py --images tests/fixtures/images
part 60 "transformers bf16" "$python" tests/gpu/transformers_bf16.py --device "$device"

awk -F '\t' '{ for (i = 1; i <= 2; i++) if (length($i) > width[i]) width[i] = length($i); line[NR] = $0 }
  END { for (n = 1; n <= NR; n++) { split(line[n], field, "\t"); printf "%-*s  %-*s  %s\n", width[1], field[1], width[2], field[2], field[3] } }' "$table"
grep -q FAIL "$table" && failed=1
exit "$failed"
