//! RMS norm and layer norm: one pass per row forward; the backward recomputes each row's statistics.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::math::{dot, sum};
use super::{for_row_blocks, slice, sum_row_blocks, tensor, vectorised, with_slices};

/// x / sqrt(mean(x^2) + eps) * weight.
pub(in super::super) struct RmsNormOp {
    pub(in super::super) eps: f32,
}

impl CustomOp2 for RmsNormOp {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (slice(x, lx)?, slice(w, lw)?);
        let mut out = vec![0f32; x.len()];
        for_row_blocks(&mut out, w.len(), |row, out| {
            rms_rows(&x[row * w.len()..][..out.len()], w, self.eps, out);
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gy, trained) = (gy.contiguous()?, w.track_op());
        let (gx, gw) = with_slices([x, w, &gy], |[x, w, gy]| {
            let d = w.len();
            let mut gx = vec![0f32; x.len()];
            for_row_blocks(&mut gx, d, |row, gx| {
                let range = row * d..row * d + gx.len();
                rms_rows_backward(&x[range.clone()], w, &gy[range], self.eps, gx);
            });
            let gw = trained.then(|| {
                sum_row_blocks(x.len() / d.max(1), d, |rows, out| {
                    let range = rows.start * d..rows.end * d;
                    rms_rows_weight(&x[range.clone()], &gy[range], self.eps, out);
                })
            });
            Ok((gx, gw))
        })?;
        Ok((Some(tensor(gx, x.shape())?), gw.map(|gw| tensor(gw, w.shape())).transpose()?))
    }
}

/// 1 / sqrt(mean(x^2) + eps) of one row.
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

vectorised! {
    fn rms_rows(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
        let d = w.len();
        for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let r = inverse_rms(x, eps);
            for ((out, &x), &w) in out.iter_mut().zip(x).zip(w) {
                *out = x * r * w;
            }
        }
    }
}

vectorised! {
    /// With n = x r and g = gy w: gx = r (g - n mean(g n)).
    fn rms_rows_backward(x: &[f32], w: &[f32], gy: &[f32], eps: f32, gx: &mut [f32]) {
        let d = w.len();
        for ((x, gy), gx) in x.chunks_exact(d).zip(gy.chunks_exact(d)).zip(gx.chunks_exact_mut(d)) {
            let r = inverse_rms(x, eps);
            for ((gx, &gy), &w) in gx.iter_mut().zip(gy).zip(w) {
                *gx = gy * w;
            }
            let mean = dot(gx, x) * r * r / d as f32;
            for (gx, &x) in gx.iter_mut().zip(x) {
                *gx = r * (*gx - x * mean);
            }
        }
    }
}

vectorised! {
    /// Adds the rows' gradients of the weight, gy n.
    fn rms_rows_weight(x: &[f32], gy: &[f32], eps: f32, out: &mut [f32]) {
        let d = out.len();
        for (x, gy) in x.chunks_exact(d).zip(gy.chunks_exact(d)) {
            let r = inverse_rms(x, eps);
            for ((out, &x), &gy) in out.iter_mut().zip(x).zip(gy) {
                *out += gy * x * r;
            }
        }
    }
}

/// (x - mean) / sqrt(variance + eps) * weight + bias.
pub(in super::super) struct LayerNormOp {
    pub(in super::super) eps: f32,
}

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w, b) = (slice(x, lx)?, slice(w, lw)?, slice(b, lb)?);
        let mut out = vec![0f32; x.len()];
        for_row_blocks(&mut out, w.len(), |row, out| {
            layer_rows(&x[row * w.len()..][..out.len()], w, b, self.eps, out);
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (gy, trained) = (gy.contiguous()?, w.track_op() || b.track_op());
        let (gx, gwb) = with_slices([x, w, &gy], |[x, w, gy]| {
            let d = w.len();
            let mut gx = vec![0f32; x.len()];
            for_row_blocks(&mut gx, d, |row, gx| {
                let range = row * d..row * d + gx.len();
                layer_rows_backward(&x[range.clone()], w, &gy[range], self.eps, gx);
            });
            let gwb = trained.then(|| {
                sum_row_blocks(x.len() / d.max(1), 2 * d, |rows, out| {
                    let range = rows.start * d..rows.end * d;
                    let (gw, gb) = out.split_at_mut(d);
                    layer_rows_weight(&x[range.clone()], &gy[range], self.eps, gw, gb);
                })
            });
            Ok((gx, gwb))
        })?;
        let gx = Some(tensor(gx, x.shape())?);
        let Some(mut gw) = gwb else { return Ok((gx, None, None)) };
        let gb = gw.split_off(gw.len() / 2);
        Ok((gx, Some(tensor(gw, w.shape())?), Some(tensor(gb, b.shape())?)))
    }
}

/// (mean, 1 / sqrt(variance + eps)) of one row, in two passes as the one-pass form cancels.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x) / n;
    (mean, 1.0 / (centred_square(x, mean) / n + eps).sqrt())
}

/// Sum of (x - mean)^2.
#[inline(always)]
fn centred_square(x: &[f32], mean: f32) -> f32 {
    let mut total = [0f32; 8];
    let xs = x.chunks_exact(8);
    let rest = xs.remainder();
    for x in xs {
        for i in 0..8 {
            total[i] += (x[i] - mean) * (x[i] - mean);
        }
    }
    sum(&total) + rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>()
}

vectorised! {
    fn layer_rows(x: &[f32], w: &[f32], b: &[f32], eps: f32, out: &mut [f32]) {
        let d = w.len();
        for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let (mean, r) = moments(x, eps);
            for (((out, &x), &w), &b) in out.iter_mut().zip(x).zip(w).zip(b) {
                *out = (x - mean) * r * w + b;
            }
        }
    }
}

vectorised! {
    /// With n = (x - mean) r and g = gy w: gx = r (g - mean(g) - n mean(g n)).
    fn layer_rows_backward(x: &[f32], w: &[f32], gy: &[f32], eps: f32, gx: &mut [f32]) {
        let d = w.len();
        for ((x, gy), gx) in x.chunks_exact(d).zip(gy.chunks_exact(d)).zip(gx.chunks_exact_mut(d)) {
            let (mean, r) = moments(x, eps);
            for ((gx, &gy), &w) in gx.iter_mut().zip(gy).zip(w) {
                *gx = gy * w;
            }
            let total = sum(gx);
            let projected = (dot(gx, x) - mean * total) * r;
            let (g_mean, gn_mean) = (total / d as f32, projected * r / d as f32);
            for (gx, &x) in gx.iter_mut().zip(x) {
                *gx = r * (*gx - g_mean - (x - mean) * gn_mean);
            }
        }
    }
}

vectorised! {
    /// Adds the rows' gradients of the weight, gy n, and of the bias, gy.
    fn layer_rows_weight(x: &[f32], gy: &[f32], eps: f32, gw: &mut [f32], gb: &mut [f32]) {
        let d = gw.len();
        for (x, gy) in x.chunks_exact(d).zip(gy.chunks_exact(d)) {
            let (mean, r) = moments(x, eps);
            for (((gw, gb), &x), &gy) in gw.iter_mut().zip(gb.iter_mut()).zip(x).zip(gy) {
                *gw += gy * (x - mean) * r;
                *gb += gy;
            }
        }
    }
}
