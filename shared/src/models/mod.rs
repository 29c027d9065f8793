//! The model families on candle, each usable frozen (extract) and trainable (distill).
//!
//! Legend of axis letters: T packed tokens, S samples, D width, H heads, K head width, V vocabulary.

use candle_core::{Result, Tensor};

use crate::image::ImageInput;

pub mod layers;

/// Samples concatenated for one forward pass: no padding anywhere.
#[derive(Clone, Debug, Default)]
pub struct PackedBatch {
    /// Token ids, (T).
    pub input_ids: Vec<u32>,
    /// (temporal, height, width) position of each token, (T); three equal numbers for 1-D rotary families.
    pub positions: Vec<[u32; 3]>,
    /// Sample boundaries in tokens: S+1 numbers from 0 to T.
    pub cu_seqlens: Vec<usize>,
    /// All images of all samples, in token order.
    pub images: Vec<ImageInput>,
    /// The packed positions that take image features, in the order the features come.
    pub image_rows: Vec<u32>,
}

/// The sizes every decoder has, under one name each; what the Recalibrator copies from a student.
#[derive(Clone, Debug, PartialEq)]
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

    /// Token embeddings with image features in their rows, (T, D): vision encoder and projector.
    ///
    /// # Errors
    /// When a shape does not fit the model or the device fails.
    fn embed(&self, batch: &PackedBatch) -> Result<Tensor>;

    /// Features of embedded tokens, (T, D): the decoder and its final norm.
    ///
    /// # Errors
    /// When a shape does not fit the model or the device fails.
    fn decode(&self, embeds: &Tensor, batch: &PackedBatch) -> Result<Tensor>;

    /// Features, (T, D): the last layer after the final norm, so that the head alone gives logits.
    ///
    /// # Errors
    /// As [`embed`](Self::embed) and [`decode`](Self::decode).
    fn features(&self, batch: &PackedBatch) -> Result<Tensor> {
        self.decode(&self.embed(batch)?, batch)
    }
}
