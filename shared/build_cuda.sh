#!/usr/bin/env bash
# The programs with the CUDA backend, on a machine that has neither a GPU nor, if need be, a CUDA toolkit: make cuda
#
# Four things stand between `cargo build --features flash-attn` and such a machine:
#   nvcc      when none is on PATH, a virtual environment under target/ gets NVIDIA's compiler as pip wheels.
#   libcuda   candle links against the driver's library, which only a machine with a driver has. A copy of candle-core
#             under target/ asks cudarc to open it at run time instead, so the programs also start without one and say so.
#   cudart    candle-kernels asks for the shared runtime; a linker script of that name holds the static one.
#   hours     candle-flash-attn compiles 52 kernels. A copy of it under target/ compiles those of FLASH_KERNELS, with
#             CUTLASS's headers from a pip wheel; attention of any other kind takes the plain way (layers/cuda/flash.rs).
# CUDA_COMPUTE_CAP names the GPU (90: Hopper); CUDA_VERSION must not be newer than the driver of the machine that runs them.
# FLASH_KERNELS names files `flash_fwd_*_sm80.cu` of candle-flash-attn; `none` leaves flash attention out.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO=${CARGO:-cargo}
PYTHON=${PYTHON:-python3}
work=$PWD/target/cuda
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
# Decoders have heads of 64 or 128 numbers, vision encoders of 64, 72, 80 or 128.
export FLASH_KERNELS=${FLASH_KERNELS:-hdim64_bf16 hdim64_bf16_causal hdim96_bf16 hdim128_bf16 hdim128_bf16_causal}
# cudaforge compiles half as many kernels at a time as there are cores.
export CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}
mkdir -p "$work"

pip_install() {
  [ -x "$work/venv/bin/pip" ] || "$PYTHON" -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"
}

if command -v nvcc >/dev/null; then
  toolkit=$(dirname "$(dirname "$(realpath "$(command -v nvcc)")")")
else
  version=${CUDA_VERSION:-13.0}
  echo "no nvcc on PATH: installing CUDA $version under $work" >&2
  pip_install "nvidia-cuda-nvcc==$version.*" "nvidia-nvvm==$version.*" "nvidia-cuda-crt==$version.*" \
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

# Copies of dependencies as cargo has fetched them, changed. One that is there with the same changes stays as it is, so that
# cargo does not compile it again.
patched() { # patched CRATE "WHAT THE CHANGES DEPEND ON" ARGUMENTS...: the folder of its changed copy
  local name=$1 stamp=$2 manifest; shift 2
  manifest=$("$CARGO" metadata --locked --all-features --format-version 1 | "$PYTHON" -c '
import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == sys.argv[1]))' "$name")
  stamp="$manifest $stamp $(cksum < shared/patch_cuda.py)"
  if [ "$(cat "$work/$name.stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$work/$name" "$work/$name.stamp"
    cp -r "$(dirname "$manifest")" "$work/$name"
    chmod -R u+w "$work/$name"
    "$PYTHON" shared/patch_cuda.py "$name" "$work/$name" "$@"
    echo "$stamp" > "$work/$name.stamp"
  fi
  patches+=(--config "patch.crates-io.$name.path=\"$work/$name\"")
}
patches=() feature=cuda
patched candle-core ""
if [ "$FLASH_KERNELS" != none ]; then
  pip_install --no-deps nvidia-cutlass==3.5.0.0
  cutlass=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"] + "/cutlass_library/source")')
  patched candle-flash-attn "$FLASH_KERNELS $cutlass" "$cutlass" $FLASH_KERNELS
  feature=flash-attn
fi

# A patched dependency has no checksum, so cargo rewrites the lock file: it is put back, whatever happens.
cp Cargo.lock "$work/Cargo.lock"
trap 'cp "$work/Cargo.lock" Cargo.lock' EXIT
# GPU builds have a target folder of their own: other features and flags would rebuild everything else each time.
CARGO_TARGET_DIR=$work/target RUSTFLAGS="${RUSTFLAGS:-} -L native=$work/lib" "$CARGO" build --release \
  --bin extract --bin distill --bin gpu_bench -p extract -p distill -p e2e \
  --features "extract/$feature,distill/$feature,e2e/$feature" "${patches[@]}"

for program in extract distill gpu_bench; do
  strip -o "$work/$program" "$work/target/release/$program"
  if readelf -d "$work/$program" | grep NEEDED | grep -q -i 'libcu'; then
    echo "error: \`$work/$program\` needs a CUDA library to start" >&2
    exit 1
  fi
  echo "$work/$program: $(stat -c %s "$work/$program") bytes"
done
"$work/extract" --version
"$work/distill" --version
# What `make gpu-bench` takes to a machine with a GPU, beside the repository itself: one file, which is the other two programs when
# it is called by their names.
rm -rf "$work/bundle"
mkdir "$work/bundle"
for name in gpu_bench extract distill; do ln "$work/gpu_bench" "$work/bundle/$name"; done
tar -C "$work/bundle" -cf - gpu_bench extract distill | gzip -9 >target/gpu-bench.tgz
echo "target/gpu-bench.tgz: $(stat -c %s target/gpu-bench.tgz) bytes"
