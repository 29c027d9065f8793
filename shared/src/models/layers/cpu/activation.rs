//! Activations x * g(x) and the SwiGLU gate: one vectorised pass forward, one backward.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::{normal, sigmoid};
use super::{CHUNK, for_row_blocks, slice, tensor, vectorised, with_slices};

/// The functions that have a kernel.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Activation {
    Silu,
    QuickGelu,
    GeluTanh,
    Gelu,
}

impl Activation {
    /// `out = f(x)`.
    fn forward(self, x: &[f32], out: &mut [f32]) {
        match self {
            Activation::Silu => silu(x, out),
            Activation::QuickGelu => quick_gelu(x, out),
            Activation::GeluTanh => gelu_tanh(x, out),
            Activation::Gelu => gelu(x, out),
        }
    }

    /// `out = f'(x) * out`.
    fn backward(self, x: &[f32], out: &mut [f32]) {
        match self {
            Activation::Silu => silu_slope(x, out),
            Activation::QuickGelu => quick_gelu_slope(x, out),
            Activation::GeluTanh => gelu_tanh_slope(x, out),
            Activation::Gelu => gelu_slope(x, out),
        }
    }
}

impl CustomOp1 for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut out = vec![0f32; x.len()];
        for_row_blocks(&mut out, 1, |i, out| self.forward(&x[i..i + out.len()], out));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        let gy = gy.contiguous()?;
        let gx = with_slices([x, &gy], |[x, gy]| {
            let mut gx = vec![0f32; x.len()];
            for_row_blocks(&mut gx, 1, |i, gx| {
                gx.copy_from_slice(&gy[i..i + gx.len()]);
                self.backward(&x[i..i + gx.len()], gx);
            });
            Ok(gx)
        })?;
        tensor(gx, x.shape()).map(Some)
    }
}

vectorised! {
    fn silu(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * sigmoid(x);
        }
    }
}

vectorised! {
    fn silu_slope(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            let s = sigmoid(x);
            *out *= s + x * s * (1.0 - s);
        }
    }
}

/// The factor inside quick_gelu's sigmoid.
const QUICK: f32 = 1.702;

vectorised! {
    fn quick_gelu(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * sigmoid(QUICK * x);
        }
    }
}

vectorised! {
    fn quick_gelu_slope(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            let s = sigmoid(QUICK * x);
            *out *= s + QUICK * x * s * (1.0 - s);
        }
    }
}

/// 2 sqrt(2 / pi): (1 + tanh u) / 2 is sigmoid(2 u), which keeps its relative precision where tanh nears -1.
const TANH: f32 = 1.595_769_2;
/// The cubic coefficient of the tanh approximation.
const CUBIC: f32 = 0.044_715;

vectorised! {
    fn gelu_tanh(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * sigmoid(TANH * x * (1.0 + CUBIC * x * x));
        }
    }
}

vectorised! {
    fn gelu_tanh_slope(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            let s = sigmoid(TANH * x * (1.0 + CUBIC * x * x));
            *out *= s + x * s * (1.0 - s) * TANH * (1.0 + 3.0 * CUBIC * x * x);
        }
    }
}

vectorised! {
    fn gelu(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * normal(x).0;
        }
    }
}

vectorised! {
    fn gelu_slope(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            let (cumulative, density) = normal(x);
            *out *= cumulative + x * density;
        }
    }
}

/// silu(gate) * up.
pub(in super::super) struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let mut out = vec![0f32; gate.len()];
        for_row_blocks(&mut out, 1, |i, out| {
            let range = i..i + out.len();
            swiglu(&gate[range.clone()], &up[range], out);
        });
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        gy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gy = gy.contiguous()?;
        let (ggate, gup) = with_slices([gate, up, &gy], |[gate, up, gy]| {
            let (mut ggate, mut gup) = (vec![0f32; gate.len()], vec![0f32; gate.len()]);
            ggate.par_chunks_mut(CHUNK).zip(gup.par_chunks_mut(CHUNK)).enumerate().for_each(
                |(chunk, (ggate, gup))| {
                    let range = chunk * CHUNK..chunk * CHUNK + gup.len();
                    swiglu_backward(&gate[range.clone()], &up[range.clone()], &gy[range], ggate, gup);
                },
            );
            Ok((ggate, gup))
        })?;
        Ok((Some(tensor(ggate, gate.shape())?), Some(tensor(gup, up.shape())?)))
    }
}

vectorised! {
    fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * sigmoid(gate) * up;
        }
    }
}

vectorised! {
    fn swiglu_backward(gate: &[f32], up: &[f32], gy: &[f32], ggate: &mut [f32], gup: &mut [f32]) {
        let inputs = gate.iter().zip(up).zip(gy);
        for (((&gate, &up), &gy), (ggate, gup)) in inputs.zip(ggate.iter_mut().zip(gup)) {
            let s = sigmoid(gate);
            *gup = gy * gate * s;
            *ggate = gy * up * (s + gate * s * (1.0 - s));
        }
    }
}
