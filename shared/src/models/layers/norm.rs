//! Norms over the last axis.

use candle_core::{D, DType, Result, Tensor};

use super::cpu::norm::{LayerNormOp, RmsNormOp};
#[cfg(feature = "cuda")]
use super::cuda::ops;
use super::{Kernels, kernels, plain};

/// Root-mean-square norm without a mean (arXiv 1910.07467).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
    /// Gemma's weights are differences from 1.
    from_one: bool,
}

impl RmsNorm {
    /// A norm of `weight` (D).
    pub fn new(weight: Tensor, eps: f64) -> RmsNorm {
        RmsNorm { weight, eps, from_one: false }
    }

    /// A norm that multiplies by 1 + `weight` (D), as Gemma's do.
    pub fn from_one(weight: Tensor, eps: f64) -> RmsNorm {
        RmsNorm { weight, eps, from_one: true }
    }

    /// x (.., D) -> (.., D).
    ///
    /// # Errors
    /// When the widths differ or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.from_one {
            // In single precision throughout, as Gemma has it: half of it would lose a small difference from 1.
            let weight = (self.weight.to_dtype(DType::F32)? + 1.0)?;
            return self.scaled(&x.to_dtype(DType::F32)?, &weight)?.to_dtype(x.dtype());
        }
        self.scaled(x, &self.weight.to_dtype(x.dtype())?)
    }

    fn scaled(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let eps = self.eps as f32;
        match kernels(&[x, weight]) {
            _ if x.dim(D::Minus1)? != weight.elem_count() => plain::rms_norm(x, weight, self.eps),
            Kernels::Cpu => x.contiguous()?.apply_op2(weight, RmsNormOp { eps }),
            #[cfg(feature = "cuda")]
            Kernels::Gpu => x.contiguous()?.apply_op2(weight, ops::RmsNormOp { eps }),
            Kernels::None => plain::rms_norm(x, weight, self.eps),
        }
    }
}

/// Layer norm with mean and bias (arXiv 1607.06450).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// A norm of `weight` (D) and `bias` (D).
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> LayerNorm {
        LayerNorm { weight, bias, eps }
    }

    /// x (.., D) -> (.., D).
    ///
    /// # Errors
    /// When the widths differ or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.to_dtype(x.dtype())?, self.bias.to_dtype(x.dtype())?);
        let eps = self.eps as f32;
        match kernels(&[x, &weight, &bias]) {
            _ if x.dim(D::Minus1)? != weight.elem_count() => plain::layer_norm(x, &weight, &bias, self.eps),
            Kernels::Cpu => x.contiguous()?.apply_op3(&weight, &bias, LayerNormOp { eps }),
            #[cfg(feature = "cuda")]
            Kernels::Gpu => x.contiguous()?.apply_op3(&weight, &bias, ops::LayerNormOp { eps }),
            Kernels::None => plain::layer_norm(x, &weight, &bias, self.eps),
        }
    }
}

/// Either norm, as a configuration asks for.
#[derive(Clone, Debug)]
pub enum Norm {
    /// With mean and bias.
    Layer(LayerNorm),
    /// Without either.
    Rms(RmsNorm),
}

impl Norm {
    /// x (.., D) -> (.., D).
    ///
    /// # Errors
    /// When the widths differ or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }
}
