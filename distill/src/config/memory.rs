//! The keys that save memory.

use serde::{Deserialize, Serialize};
use shared::models::DecoderConfig;

/// Above this many bytes of activations, `auto` recomputes.
const AUTO_BYTES: usize = 256 << 20;

/// What memory is saved on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// Whether decoder blocks keep their input alone and run again in the backward pass: the same gradients, at the
    /// cost of a second forward pass.
    pub recompute: Recompute,
    /// How the optimizer's moments are stored: `f32`, `bf16` or `f8`, in 8, 4 or 2 bytes a trained weight.
    pub optimizer: OptimizerStates,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { recompute: Recompute::Auto, optimizer: OptimizerStates::F32 }
    }
}

/// When decoder blocks are recomputed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Where a full microbatch's activations would take more than 256 MiB.
    Auto,
    /// In every stage.
    Always,
    /// In none.
    Never,
}

impl Recompute {
    /// Whether it applies to a decoder in microbatches of `num_tokens`.
    #[must_use]
    pub fn applies(self, decoder: &DecoderConfig, num_tokens: usize) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => num_tokens * activation_bytes(decoder) > AUTO_BYTES,
        }
    }
}

/// About how many bytes of float32 activations a token leaves in all blocks for the backward pass.
fn activation_bytes(decoder: &DecoderConfig) -> usize {
    let attention = decoder.head_dim * (decoder.num_heads + 2 * decoder.num_kv_heads);
    // Norms, residuals and projections have the width; queries, keys and values are there before and after the
    // rotary embedding; the feed-forward has gate, up and their product.
    let block = 6 * decoder.hidden_size + 2 * attention + 3 * decoder.intermediate_size;
    4 * block * decoder.num_layers
}

/// How the optimizer's moments are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerStates {
    /// float32.
    F32,
    /// bfloat16, rounded stochastically.
    Bf16,
    /// 8-bit floats with a scale per 256 values, rounded stochastically.
    F8,
}
