//! Rotary embedding: one pass; its backward is the rotation by the opposite angles.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::{for_row_blocks, slice, tensor, vectorised, with_slices};

/// Rotates x (T, H, K) by the tables (T, K/2).
pub(in super::super) struct RopeOp {
    pub(in super::super) cos: Tensor,
    pub(in super::super) sin: Tensor,
}

impl RopeOp {
    /// `sign` 1 rotates forward, -1 backward.
    fn rotated(&self, x: &[f32], heads: usize, sign: f32) -> Result<Vec<f32>> {
        let half = self.cos.dim(1)?;
        let width = heads * half * 2;
        let mut out = vec![0f32; x.len()];
        with_slices([&self.cos, &self.sin], |[cos, sin]| {
            for_row_blocks(&mut out, width, |token, out| {
                let x = &x[token * width..][..out.len()];
                rotate(x, &cos[token * half..], &sin[token * half..], [half, heads], sign, out);
            });
            Ok(())
        })?;
        Ok(out)
    }
}

impl CustomOp1 for RopeOp {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.rotated(slice(x, layout)?, layout.shape().dims3()?.1, 1.0)?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        let gy = gy.contiguous()?;
        let gx = with_slices([&gy], |[gy]| self.rotated(gy, x.dims3()?.1, -1.0))?;
        tensor(gx, x.shape()).map(Some)
    }
}

vectorised! {
    fn rotate(x: &[f32], cos: &[f32], sin: &[f32], sizes: [usize; 2], sign: f32, out: &mut [f32]) {
        let [half, heads] = sizes;
        let width = 2 * half * heads;
        let tokens = x.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for ((x, out), (cos, sin)) in tokens.zip(cos.chunks_exact(half).zip(sin.chunks_exact(half))) {
            for (x, out) in x.chunks_exact(2 * half).zip(out.chunks_exact_mut(2 * half)) {
                let ((a, b), (first, second)) = (x.split_at(half), out.split_at_mut(half));
                for i in 0..half {
                    let (cos, sin) = (cos[i], sign * sin[i]);
                    first[i] = a[i] * cos - b[i] * sin;
                    second[i] = b[i] * cos + a[i] * sin;
                }
            }
        }
    }
}
