//! Activation functions.

use candle_core::{Result, Tensor};
use serde::Serialize;

use super::cpu::activation::{Activation as Kernel, SwiGlu};
use super::{fused, plain};

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
        match self {
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_tanh(x),
            Self::QuickGelu => quick_gelu(x),
            Self::Silu => silu(x),
        }
    }
}

/// x * sigmoid(x), any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if fused(&[x]) { x.contiguous()?.apply_op1(Kernel::Silu) } else { plain::silu(x) }
}

/// silu(gate) * up, two tensors of one shape: the gate of Llama-style feed-forwards.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() == up.dims() && fused(&[gate, up]) {
        return gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu);
    }
    plain::swiglu(gate, up)
}

/// x * Phi(x), the exact form with the error function, any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if fused(&[x]) { x.contiguous()?.apply_op1(Kernel::Gelu) } else { plain::gelu(x) }
}

/// The tanh approximation of [`gelu`] (`gelu_pytorch_tanh`), any shape.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if fused(&[x]) { x.contiguous()?.apply_op1(Kernel::GeluTanh) } else { plain::gelu_tanh(x) }
}

/// x * sigmoid(1.702 x), any shape.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if fused(&[x]) { x.contiguous()?.apply_op1(Kernel::QuickGelu) } else { plain::quick_gelu(x) }
}
