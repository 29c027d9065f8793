//! A frozen linear layer on the CPU whose weight stays quantised: floats are made of it panel by panel, each where it is
//! multiplied, so that few rows (a step of generation) neither write nor read a matrix of floats.

use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::linear::{Sizes, input_gradient};
use super::{slice, tensor, with_slices};

/// Bytes of a panel's floats: what a core's second cache holds.
const PANEL_BYTES: usize = 1 << 20;
/// Rows of a weight in a panel at least: a product with fewer is too thin for the registers.
const LEAST_PANEL: usize = 128;

/// y = x W^T + b for a quantised W, as an operation on x.
pub(in super::super) struct Quantised {
    pub(in super::super) weight: Arc<QTensor>,
    pub(in super::super) bias: Option<Tensor>,
}

/// The floats of a quantised matrix, (O, I).
///
/// # Errors
/// When it is not a matrix on the CPU.
pub(in super::super) fn dequantised(weight: &QTensor) -> Result<Tensor> {
    let (outputs, inputs) = weight.shape().dims2()?;
    let mut floats = vec![0f32; outputs * inputs];
    let rows = rows_of_a_panel(inputs);
    let parts = floats.par_chunks_mut((rows * inputs).max(1)).enumerate();
    parts.try_for_each(|(at, out)| {
        let panel = panel(weight, at * rows..((at + 1) * rows).min(outputs))?;
        with_slices([&panel], |[panel]| {
            out.copy_from_slice(panel);
            Ok(())
        })
    })?;
    tensor(floats, weight.shape())
}

/// The floats of some rows.
fn panel(weight: &QTensor, rows: Range<usize>) -> Result<Tensor> {
    let rows: Vec<u32> = rows.map(|row| row as u32).collect();
    weight.embedding(&Tensor::new(rows, &Device::Cpu)?)
}

fn rows_of_a_panel(inputs: usize) -> usize {
    (PANEL_BYTES / size_of::<f32>() / inputs.max(1)).max(LEAST_PANEL)
}

impl Quantised {
    /// y (N, O); each sum is formed in the order in which the product with the whole weight forms it.
    fn by_panels(&self, sizes: Sizes, x: &[f32], b: Option<&[f32]>) -> Result<Vec<f32>> {
        let (rows, outputs) = (rows_of_a_panel(sizes.inputs()), sizes.outputs());
        let starts: Vec<usize> = (0..outputs).step_by(rows).collect();
        let product = |&start: &usize| {
            let range = start..(start + rows).min(outputs);
            let b = b.map(|b| &b[range.clone()]);
            let part = sizes.with_outputs(range.len());
            let weight = panel(&self.weight, range)?;
            with_slices([&weight], |[w]| Ok(part.forward_on(x, w, b, Parallelism::None)))
        };
        let parts = starts.par_iter().map(product).collect::<Result<Vec<_>>>()?;
        let mut y = vec![0f32; sizes.rows() * outputs];
        for (start, part) in starts.iter().zip(&parts) {
            let width = (outputs - start).min(rows);
            for (y, part) in y.chunks_exact_mut(outputs).zip(part.chunks_exact(width)) {
                y[*start..start + width].copy_from_slice(part);
            }
        }
        Ok(y)
    }

    fn forward(&self, sizes: Sizes, x: &[f32], b: Option<&[f32]>) -> Result<Vec<f32>> {
        match sizes.has_few_rows() {
            true => self.by_panels(sizes, x, b),
            // Many rows would be packed again for each panel.
            false => with_slices([&dequantised(&self.weight)?], |[w]| Ok(sizes.forward(x, w, b))),
        }
    }
}

impl CustomOp1 for Quantised {
    fn name(&self) -> &'static str {
        "linear-quantised"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (sizes, shape) = Sizes::of(lx.shape(), self.weight.shape())?;
        let x = slice(x, lx)?;
        let y = match &self.bias {
            None => self.forward(sizes, x, None)?,
            Some(b) => with_slices([b], |[b]| self.forward(sizes, x, Some(b)))?,
        };
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        input_gradient(x, &dequantised(&self.weight)?, gy).map(Some)
    }
}
