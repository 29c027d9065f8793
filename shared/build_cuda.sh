#!/usr/bin/env bash
# Both programs with the CUDA backend, on a machine that has neither a GPU nor, if need be, a CUDA toolkit: make cuda
#
# Three things stand between `cargo build --features cuda` and such a machine:
#   nvcc      when none is on PATH, a virtual environment under target/ gets NVIDIA's compiler as pip wheels.
#   libcuda   candle links against the driver's library, which only a machine with a driver has. A copy of candle-core
#             under target/ asks cudarc to open it at run time instead, so the programs also start without one and say so.
#   cudart    candle-kernels asks for the shared runtime; a linker script of that name holds the static one.
# CUDA_COMPUTE_CAP names the GPU (90: Hopper); CUDA_VERSION must not be newer than the driver of the machine that runs them.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO=${CARGO:-cargo}
PYTHON=${PYTHON:-python3}
work=$PWD/target/cuda
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
mkdir -p "$work"

if command -v nvcc >/dev/null; then
  toolkit=$(dirname "$(dirname "$(realpath "$(command -v nvcc)")")")
else
  version=${CUDA_VERSION:-13.0}
  echo "no nvcc on PATH: installing CUDA $version under $work" >&2
  [ -x "$work/venv/bin/pip" ] || "$PYTHON" -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    "nvidia-cuda-nvcc==$version.*" "nvidia-nvvm==$version.*" "nvidia-cuda-crt==$version.*" \
    "nvidia-cuda-runtime==$version.*" "nvidia-cuda-cccl==$version.*"
  toolkit=$(find "$work/venv" -type d -path '*/nvidia/cu*' -name "cu${version%%.*}")
  export PATH="$toolkit/bin:$PATH"
fi
# cudaforge and cudarc look for the toolkit under different names.
export CUDA_HOME=$toolkit CUDA_PATH=$toolkit CUDA_ROOT=$toolkit NVCC=$toolkit/bin/nvcc
release=$(nvcc --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\10\20/p')
export CUDARC_CUDA_VERSION=$release

runtime=$(find -L "$toolkit" -name libcudart_static.a -print -quit)
[ -n "$runtime" ] || { echo "error: no \`libcudart_static.a\` below \`$toolkit\`" >&2; echo "hint: install the whole CUDA toolkit, or take nvcc off PATH to get one under target/" >&2; exit 1; }
mkdir -p "$work/lib"
echo "INPUT($runtime -ldl -lrt -lpthread)" > "$work/lib/libcudart.so"

# The manifest of candle-core as cargo has fetched it, copied with the one feature changed.
manifest=$("$CARGO" metadata --locked --format-version 1 | "$PYTHON" -c '
import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "candle-core"))')
rm -rf "$work/candle-core"
cp -r "$(dirname "$manifest")" "$work/candle-core"
chmod -R u+w "$work/candle-core"
sed -i 's/"dynamic-linking"/"dynamic-loading"/' "$work/candle-core/Cargo.toml"
grep -q '"dynamic-loading"' "$work/candle-core/Cargo.toml" || { echo "error: candle-core no longer asks cudarc for \`dynamic-linking\`" >&2; exit 1; }

# A patched dependency has no checksum, so cargo rewrites the lock file: it is put back, whatever happens.
cp Cargo.lock "$work/Cargo.lock"
trap 'cp "$work/Cargo.lock" Cargo.lock' EXIT
# GPU builds have a target folder of their own: other features and flags would rebuild everything else each time.
CARGO_TARGET_DIR=$work/target RUSTFLAGS="${RUSTFLAGS:-} -L native=$work/lib" "$CARGO" build --release \
  --bins -p extract -p distill --features extract/cuda,distill/cuda \
  --config "patch.crates-io.candle-core.path=\"$work/candle-core\""

for program in extract distill; do
  strip -o "$work/$program" "$work/target/release/$program"
  if readelf -d "$work/$program" | grep NEEDED | grep -q -i 'libcu'; then
    echo "error: \`$work/$program\` needs a CUDA library to start" >&2
    exit 1
  fi
  "$work/$program" --version
  echo "$work/$program: $(stat -c %s "$work/$program") bytes"
done
