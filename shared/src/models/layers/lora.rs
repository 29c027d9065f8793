//! LoRA (arXiv 2106.09685): a frozen linear layer learns through a product of two thin matrices beside its weight.

use candle_core::{DType, Device, Result, Tensor};

use super::cpu::lora::Adapted;
use super::{Kernels, Weight, kernels, plain};

/// What stands beside a weight W (O, I): y = x W^T + scale (x A^T) B^T.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// A (R, I).
    pub a: Tensor,
    /// B (O, R); zero at the start, so that the layer begins as it was.
    pub b: Tensor,
    /// LoRA's alpha over its rank.
    pub scale: f64,
}

impl Adapter {
    /// The shape (O, I) of the weight that it stands beside.
    ///
    /// # Errors
    /// When A and B are not matrices of one rank.
    pub fn shape(&self) -> Result<[usize; 2]> {
        let ((rank, inputs), (outputs, inner)) = (self.a.dims2()?, self.b.dims2()?);
        if rank != inner {
            candle_core::bail!("an adapter of ranks {rank} and {inner}")
        }
        Ok([outputs, inputs])
    }

    /// The same on the CPU.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_cpu(&self) -> Result<Adapter> {
        let moved = |tensor: &Tensor| tensor.to_device(&Device::Cpu);
        Ok(Adapter { a: moved(&self.a)?, b: moved(&self.b)?, scale: self.scale })
    }

    /// W + scale B A in float32, for W (O, I): the weight of a layer that needs no adapter.
    ///
    /// # Errors
    /// When a shape does not fit or the device fails.
    pub fn merged(&self, weight: &Tensor) -> Result<Tensor> {
        let product = self.b.to_dtype(DType::F32)?.matmul(&self.a.to_dtype(DType::F32)?)?;
        weight.to_dtype(DType::F32)? + (product * self.scale)?
    }

    /// x (.., I) -> (.., O) through the frozen `weight` and `bias`, in x's type.
    pub(super) fn forward(&self, x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
        let cast = |tensor: &Tensor| tensor.to_dtype(x.dtype())?.contiguous();
        let (a, b) = (cast(&self.a)?, cast(&self.b)?);
        let weight = weight.to_dtype(x.dtype())?.contiguous()?;
        let bias = bias.map(cast).transpose()?;
        let operands: Vec<&Tensor> = [x, &a, &b, &weight].into_iter().chain(&bias).collect();
        if kernels(&operands) != Kernels::Cpu {
            return plain::adapted(x, (&weight, bias.as_ref()), [&a, &b], self.scale);
        }
        x.contiguous()?.apply_op3(&a, &b, Adapted { weight, bias, scale: self.scale as f32 })
    }
}
