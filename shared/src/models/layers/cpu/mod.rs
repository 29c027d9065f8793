//! The CPU kernels: float32, one pass per row, rayon over rows, a backward of their own.
//!
//! Two promises hold everywhere here, and tests keep them. The bits of a row's result depend neither on the other
//! rows nor on the number of threads; sums over rows (weight gradients) go in fixed blocks, in order. And the
//! baseline build and the AVX2 build of a kernel give the same bits, because nothing is contracted into fused
//! multiply-adds outside the matrix products of the `gemm` crate.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor, bail};
use gemm::Parallelism;
use rayon::prelude::*;

pub(super) mod activation;
pub(super) mod attention;
pub(super) mod linear;
pub(super) mod lora;
pub mod math;
mod matmul;
pub(super) mod norm;
pub(super) mod quantised;
pub(super) mod rope;

pub use matmul::{Mat, MatMut, Product, matmul};

/// Elements per parallel task: large enough to hide the hand-over, small enough to share a layer among cores.
const CHUNK: usize = 16 * 1024;

/// Rows per block of a sum over rows; fixed, so that the order of additions is.
const ROW_BLOCK: usize = 64;

pub use crate::vectorised;

/// The float32 values of a contiguous CPU operand.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else { bail!("a CPU kernel got {:?} values", storage.dtype()) };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("a CPU kernel got an operand that is not contiguous"),
    }
}

trait StorageDType {
    fn dtype(&self) -> DType;
}

impl StorageDType for CpuStorage {
    fn dtype(&self) -> DType {
        candle_core::backend::BackendStorage::dtype(self)
    }
}

/// Calls `f` with the values of contiguous float32 CPU tensors.
pub fn with_slices<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices = [&[][..]; N];
    for (out, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { bail!("a CPU kernel got a tensor of another device") };
        *out = slice(storage, layout)?;
    }
    f(slices)
}

/// A fresh CPU tensor.
fn tensor(values: Vec<f32>, shape: &Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// How a matrix product may use the machine: rayon's pool, whose size never changes a result.
pub fn parallelism() -> Parallelism {
    if rayon::current_num_threads() > 1 { Parallelism::Rayon(0) } else { Parallelism::None }
}

/// Runs `f(first_row, rows of output)` over blocks of whole rows of `width` values, in parallel.
fn for_row_blocks(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (CHUNK / width.max(1)).max(1);
    if out.len() <= rows * width {
        return f(0, out);
    }
    out.par_chunks_mut(rows * width).enumerate().for_each(|(i, chunk)| f(i * rows, chunk));
}

/// Sums `per_block(rows) -> (width) values` over all rows in a fixed order, whatever the number of threads.
fn sum_row_blocks(
    rows: usize,
    width: usize,
    per_block: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let blocks = rows.div_ceil(ROW_BLOCK);
    let mut partial = vec![0f32; blocks * width];
    partial
        .par_chunks_mut(width)
        .enumerate()
        .for_each(|(b, out)| per_block(b * ROW_BLOCK..((b + 1) * ROW_BLOCK).min(rows), out));
    let mut blocks = partial.chunks_exact(width);
    let mut total = blocks.next().map_or_else(|| vec![0.0; width], <[f32]>::to_vec);
    for block in blocks {
        add_to(&mut total, block);
    }
    total
}

vectorised! {
    /// `out += x`.
    pub fn add_to(out: &mut [f32], x: &[f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += x;
        }
    }
}
