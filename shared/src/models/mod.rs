//! The model families on candle, each usable frozen (extract) and trainable (distill).
//!
//! ```text
//! config.json -> registry -> family -> weights -> Model { body, head, params }
//! ```
//!
//! A family is a folder and a line in [`registry`]. Forward passes are packed: samples are concatenated, never
//! padded. Trainable weights are float32 Vars, cast to the compute dtype where they are used; frozen ones are
//! plain tensors in the compute dtype.
//!
//! Legend of axis letters: T packed tokens, S samples, D width, H heads, K head width, V vocabulary.

use candle_core::{Result, Tensor};
use serde::Serialize;

use layers::Recomputed;

mod batch;
mod checkpoint;
mod device;
mod error;
mod export;
mod fields;
mod generate;
mod head;
mod identity;
mod internvl;
pub mod layers;
mod load;
mod params;
mod processor;
mod qwen2_vl;
pub mod registry;
mod text_model;
pub mod weights;

pub use batch::{Encoded, PackedBatch};
pub use checkpoint::{Checkpoint, Entry};
pub use device::device;
pub use error::ModelError;
pub use export::export_checkout;
pub use generate::generate_greedy;
pub use head::Head;
pub use identity::{identity, weights_digest};
pub use load::{LoadOptions, Model, expected_weights, load};
pub use params::{ModelPart, Param, ParamSet, TrainableParts};
pub use processor::Processor;
pub use registry::{ModelConfig, config_of};
pub use text_model::KvCache;

/// The sizes every decoder has, under one name each; what the Recalibrator copies from a student.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecoderConfig {
    /// D.
    pub hidden_size: usize,
    /// Width of the gated feed-forward.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// H.
    pub num_heads: usize,
    /// Key-value heads; H is a multiple of it.
    pub num_kv_heads: usize,
    /// K.
    pub head_dim: usize,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// V.
    pub vocab_size: usize,
    /// The head is the input embedding.
    pub tie_word_embeddings: bool,
}

/// A vision-language model without its head: vision encoder, projector and body.
pub trait VlmBody: Send + Sync {
    /// Sizes of the decoder.
    fn decoder(&self) -> &DecoderConfig;

    /// The input embedding, (V, D).
    fn embedding(&self) -> &Tensor;

    /// From now on the decoder's blocks keep their input alone in a forward pass and run again in the backward, which
    /// leaves their weights' gradients in `gradients`.
    fn recompute(&mut self, gradients: Recomputed);

    /// Token embeddings with image features in their rows, (T, D): vision encoder and projector.
    ///
    /// # Errors
    /// When a shape does not fit the model or the device fails.
    fn embed(&self, batch: &PackedBatch) -> Result<Tensor>;

    /// Features of embedded tokens, (T, D): the decoder and its final norm. With a cache, `batch` describes the
    /// tokens after those the cache already holds.
    ///
    /// # Errors
    /// When a shape does not fit the model or the device fails.
    fn decode_with(
        &self,
        embeds: &Tensor,
        batch: &PackedBatch,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor>;

    /// Features of embedded tokens, (T, D): the decoder and its final norm.
    ///
    /// # Errors
    /// When a shape does not fit the model or the device fails.
    fn decode(&self, embeds: &Tensor, batch: &PackedBatch) -> Result<Tensor> {
        self.decode_with(embeds, batch, None)
    }

    /// Features, (T, D): the last layer after the final norm, so that the head alone gives logits.
    ///
    /// # Errors
    /// As [`embed`](Self::embed) and [`decode`](Self::decode).
    fn features(&self, batch: &PackedBatch) -> Result<Tensor> {
        self.decode(&self.embed(batch)?, batch)
    }
}
