//! Activation functions.

use candle_core::{Result, Tensor};

use super::cpu::activation::{Activation, SwiGlu};
use super::{fused, plain};

/// x * sigmoid(x), any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if fused(&[x]) { x.contiguous()?.apply_op1(Activation::Silu) } else { plain::silu(x) }
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
    if fused(&[x]) { x.contiguous()?.apply_op1(Activation::Gelu) } else { plain::gelu(x) }
}

/// The tanh approximation of [`gelu`] (`gelu_pytorch_tanh`), any shape.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if fused(&[x]) { x.contiguous()?.apply_op1(Activation::GeluTanh) } else { plain::gelu_tanh(x) }
}

/// x * sigmoid(1.702 x), any shape.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if fused(&[x]) { x.contiguous()?.apply_op1(Activation::QuickGelu) } else { plain::quick_gelu(x) }
}
