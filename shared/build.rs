//! With the feature `cuda`, compiles the GPU's kernels to PTX, for the GPU that `CUDA_COMPUTE_CAP` names or this machine has.
//! Without it there is nothing to do.

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source = "src/models/layers/cuda/kernels.cu";
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-changed=build.rs");
    let compiled = cudaforge::KernelBuilder::new().source_files([source]).arg("-std=c++17").arg("-O3");
    // It leaves `kernels.ptx` in OUT_DIR, where layers/cuda/machine.rs takes it from.
    compiled.build_ptx()?;
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
