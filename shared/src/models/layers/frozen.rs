//! A frozen linear layer under an input that trains, on any device: its backward multiplies by the weight and nothing else.
//!
//! candle's own product makes the weight's gradient too, and keeps it: a matrix of the weight's size for each layer that nobody
//! asked for, and half of the backward pass's work.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::plain;
use super::recompute::Premade;
#[cfg(feature = "cuda")]
use super::{Kernels, cuda, kernels};

/// x (.., I) W^T + b for W (O, I) and b (O) without gradients; [`plain::linear`] is its twin.
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = forward(&x.detach(), weight, bias)?;
    if !x.track_op() {
        return Ok(y);
    }
    x.apply_op1(Frozen { weight: weight.clone(), output: Premade::new(y)? })
}

/// Without a graph. A GPU adds the bias by a kernel of ours: candle's divides to find the place of each value.
fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(bias) = bias
        && kernels(&[x, bias]) == Kernels::Gpu
    {
        return cuda::ops::add_bias(&plain::linear(x, weight, None)?, bias);
    }
    plain::linear(x, weight, bias)
}

struct Frozen {
    weight: Tensor,
    output: Premade,
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "linear-frozen-anywhere"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.output.take_cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.output.take_cuda()
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gy: &Tensor) -> Result<Option<Tensor>> {
        let width = gy.dim(D::Minus1)?;
        let gy = gy.contiguous()?.reshape((gy.elem_count() / width.max(1), width))?;
        plain::product(&gy, &self.weight)?.reshape(x.shape()).map(Some)
    }
}
