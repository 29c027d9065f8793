//! Blocks that the families and the Recalibrator share, and the only place that chooses between a
//! fused kernel and a composite of candle's differentiable operations.
//!
//! Candle's own fused operations (`ops::rms_norm`, `softmax_last_dim`, `rope`) drop gradients silently
//! (huggingface/candle #2168, #3011), so nothing here uses them: [`plain`] composes operations whose
//! gradients were checked against finite differences, and the kernels for CPUs and GPUs bring a backward of their own
//! that a test holds to the plain twin.
//!
//! Legend of axis letters: T packed tokens (Tq queries, Tk keys), D width, H heads, Hkv key-value heads,
//! K head width, I and O the input and output width of a linear layer.

pub mod cpu;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
pub mod plain;

mod activation;
mod attention;
#[cfg(any(test, feature = "cuda"))]
mod chunked;
mod decoder;
mod encoder;
mod frozen;
mod kv;
mod linear;
mod lora;
mod norm;
mod qkv;
mod recompute;
mod rope;
mod shuffle;
#[cfg(test)]
mod tests;
mod update;

use candle_core::{DType, Device, Tensor};

pub use activation::{Activation, gelu, gelu_tanh, quick_gelu, silu, swiglu};
pub use attention::{Segments, Sight, attention, attention_within};
#[cfg(feature = "cuda")]
pub(super) use cuda::machine::translate;
#[cfg(feature = "cuda")]
pub use cuda::ops::adamw;
pub use decoder::DecoderLayer;
pub use encoder::{EncoderLayer, Mlp};
pub use kv::KvLayer;
pub use linear::{BlockWeights, Linear, Weight};
pub use lora::Adapter;
pub use norm::{LayerNorm, Norm, RmsNorm};
pub use qkv::{Heads, Qkv};
pub use recompute::{Recomputed, recomputed};
pub use rope::{Axes, Rope, frequencies};
pub use shuffle::pixel_shuffle;
pub use update::AdamWConstants;

/// Which kernels serve some operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernels {
    /// Ours for a CPU: float32.
    Cpu,
    /// Ours for a GPU: one of float32, float16 and bfloat16.
    #[cfg(feature = "cuda")]
    Gpu,
    /// None: the plain twins do, whose gradients candle derives.
    None,
}

/// The one place that decides.
fn kernels(operands: &[&Tensor]) -> Kernels {
    if operands.iter().all(|t| matches!(t.device(), Device::Cpu) && t.dtype() == DType::F32) {
        return Kernels::Cpu;
    }
    #[cfg(feature = "cuda")]
    {
        let dtype = operands.first().map_or(DType::F64, |t| t.dtype());
        let is_served = |t: &&Tensor| t.device().is_cuda() && t.dtype() == dtype;
        if matches!(dtype, DType::F32 | DType::F16 | DType::BF16) && operands.iter().all(is_served) {
            return Kernels::Gpu;
        }
    }
    Kernels::None
}
