//! Blocks that the families and the Recalibrator share, and the only place that chooses between a
//! fused kernel and a composite of candle's differentiable operations.
//!
//! Candle's own fused operations (`ops::rms_norm`, `softmax_last_dim`, `rope`) drop gradients silently
//! (huggingface/candle #2168, #3011), so nothing here uses them: [`plain`] composes operations whose
//! gradients were checked against finite differences, and the CPU kernels bring a backward of their own
//! that a test holds to the plain twin.
//!
//! Legend of axis letters: T packed tokens (Tq queries, Tk keys), D width, H heads, Hkv key-value heads,
//! K head width, I and O the input and output width of a linear layer.

pub mod cpu;
pub mod plain;

mod activation;
mod attention;
mod decoder;
mod encoder;
mod linear;
mod lora;
mod norm;
mod qkv;
mod recompute;
mod rope;
mod shuffle;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Tensor};

pub use activation::{Activation, gelu, gelu_tanh, quick_gelu, silu, swiglu};
pub use attention::{Segments, Sight, attention, attention_within};
pub use decoder::{DecoderLayer, KvLayer};
pub use encoder::{EncoderLayer, Mlp};
pub use linear::{BlockWeights, Linear, Weight};
pub use lora::Adapter;
pub use norm::{LayerNorm, Norm, RmsNorm};
pub use qkv::{Heads, Qkv};
pub use recompute::{Recomputed, recomputed};
pub use rope::{Rope, frequencies};
pub use shuffle::pixel_shuffle;

/// Whether the CPU kernels serve these operands: the one place that decides. Everything else (a GPU, half precision,
/// float64) takes the plain twins, whose gradients candle derives.
fn fused(operands: &[&Tensor]) -> bool {
    operands.iter().all(|t| matches!(t.device(), Device::Cpu) && t.dtype() == DType::F32)
}
