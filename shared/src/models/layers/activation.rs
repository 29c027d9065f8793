//! Activation functions.

use candle_core::{Result, Tensor};
use serde::Serialize;

use super::cpu::activation::{Activation as Kernel, SwiGlu};
#[cfg(feature = "cuda")]
use super::cuda::ops;
use super::{Kernels, kernels, plain};

/// A pointwise activation that a configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// See [`gelu`].
    Gelu,
    /// See [`gelu_tanh`].
    GeluTanh,
    /// See [`quick_gelu`].
    QuickGelu,
    /// See [`silu`].
    Silu,
}

impl Activation {
    /// Of any shape.
    ///
    /// # Errors
    /// When the device fails.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        let (kernel, plain): (Kernel, fn(&Tensor) -> Result<Tensor>) = match self {
            Self::Gelu => (Kernel::Gelu, plain::gelu),
            Self::GeluTanh => (Kernel::GeluTanh, plain::gelu_tanh),
            Self::QuickGelu => (Kernel::QuickGelu, plain::quick_gelu),
            Self::Silu => (Kernel::Silu, plain::silu),
        };
        match kernels(&[x]) {
            Kernels::Cpu => x.contiguous()?.apply_op1(kernel),
            #[cfg(feature = "cuda")]
            Kernels::Gpu => x.contiguous()?.apply_op1(ops::ActivationOp(self)),
            Kernels::None => plain(x),
        }
    }
}

/// x * sigmoid(x), any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    Activation::Silu.apply(x)
}

/// silu(gate) * up, two tensors of one shape: the gate of Llama-style feed-forwards.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match kernels(&[gate, up]) {
        _ if gate.dims() != up.dims() => plain::swiglu(gate, up),
        Kernels::Cpu => gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu),
        #[cfg(feature = "cuda")]
        Kernels::Gpu => gate.contiguous()?.apply_op2(&up.contiguous()?, ops::SwiGlu),
        Kernels::None => plain::swiglu(gate, up),
    }
}

/// x * Phi(x), the exact form with the error function, any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    Activation::Gelu.apply(x)
}

/// The tanh approximation of [`gelu`] (`gelu_pytorch_tanh`), any shape.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    Activation::GeluTanh.apply(x)
}

/// x * sigmoid(1.702 x), any shape.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    Activation::QuickGelu.apply(x)
}
