"""Changes a copy of one of candle's crates so that it builds for a GPU on a machine without one (see build_cuda.sh).

  python patch_cuda.py candle-core DIR
  python patch_cuda.py candle-flash-attn DIR CUTLASS KERNEL...

A change that finds nothing to change is an error: the crate is of another version then, and must be looked at.
"""

import pathlib
import re
import sys

# What the switches of candle-flash-attn leave out of each kernel: no model here has these.
DISABLED = ("ALIBI", "LOCAL", "SOFTCAP", "DROPOUT")
HEAD_WIDTHS = (32, 64, 96, 128, 160, 192, 224, 256, 512)
PAGED_WIDTHS = (64, 128, 256, 512)


def replace(path, pattern, text):
    before = path.read_text()
    after, count = re.subn(pattern, lambda _: text, before, count=1, flags=re.DOTALL)
    if count == 0:
        sys.exit(f"error: `{path}` has no `{pattern}`\nhint: patch_cuda.py is for another version of this crate")
    path.write_text(after)


def open_driver_at_run_time(crate):
    replace(crate / "Cargo.toml", '"dynamic-linking"', '"dynamic-loading"')
    (crate / "Cargo.lock").unlink(missing_ok=True)


def compile_only(crate, cutlass, kernels):
    """Kernels that are not compiled get a stub that ends the program: flash.rs never asks for one."""
    (crate / "Cargo.lock").unlink(missing_ok=True)
    files = ["flash_api.cu", "stubs.cu", *(f"flash_fwd_{kernel}_sm80.cu" for kernel in kernels)]
    for name in files:
        if name != "stubs.cu" and not (crate / "kernels" / name).exists():
            sys.exit(f"error: candle-flash-attn has no kernel `{name}`\nhint: see FLASH_KERNELS in build_cuda.sh")
    lines = ['#include "flash_fwd_launch_template.h"', "#include <cstdio>", "#include <cstdlib>",
             "#define ABSENT(F, T, WIDTH, CAUSAL) template <> void F<cutlass::T, WIDTH, CAUSAL>(Flash_fwd_params &, cudaStream_t) { \\",
             '  fprintf(stderr, "error: no flash attention for " #T ", heads of " #WIDTH "\\n"); abort(); }']
    for kind, name in (("half_t", "fp16"), ("bfloat16_t", "bf16")):
        for causal in ("true", "false"):
            suffix = "_causal" if causal == "true" else ""
            absent = [width for width in HEAD_WIDTHS if f"hdim{width}_{name}{suffix}" not in kernels]
            lines += [f"ABSENT(run_mha_fwd_, {kind}, {width}, {causal})" for width in absent]
            lines += [f"ABSENT(run_mha_fwd_splitkv_paged_, {kind}, {width}, {causal})" for width in PAGED_WIDTHS]
    (crate / "kernels" / "stubs.cu").write_text("\n".join(lines) + "\n")
    build = crate / "build.rs"
    listed = ", ".join(f'"kernels/{name}"' for name in files)
    replace(build, r"const KERNEL_FILES: \[&str; \d+\] = \[.*?\];", f"const KERNEL_FILES: [&str; {len(files)}] = [{listed}];")
    replace(build, r"const CUTLASS_COMMIT[^\n]*\n", "")
    flags = [f"-I{cutlass}/include", f"-I{cutlass}/tools/util/include", "-DUSE_CUTLASS", "-w",
             *(f"-DFLASHATTENTION_DISABLE_{name}" for name in DISABLED)]
    replace(build, r"\.with_cutlass\(Some\(CUTLASS_COMMIT\)\)[^\n]*", "".join(f'.arg("{flag}")' for flag in flags))
    replace(build, r"\.thread_percentage\(0\.5\)", ".thread_percentage(1.0)")


def main():
    name, crate, *rest = sys.argv[1:]
    crate = pathlib.Path(crate)
    if name == "candle-core":
        open_driver_at_run_time(crate)
    else:
        compile_only(crate, rest[0], rest[1:])


if __name__ == "__main__":
    main()
