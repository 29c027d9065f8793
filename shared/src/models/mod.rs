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

use candle_core::{Result, Tensor, bail};
use serde::Serialize;

use layers::{Linear, Recomputed, RmsNorm};

mod anyres;
mod batch;
mod blocks;
mod checkpoint;
mod device;
mod error;
mod export;
mod fields;
mod gemma3;
mod generate;
mod gguf;
mod head;
mod hub;
mod idefics3;
mod identity;
mod internvl;
mod internvl_chat;
pub mod layers;
mod llava;
mod llava_names;
mod llava_next;
mod llava_onevision;
mod load;
mod mistral3;
mod moment;
mod paligemma;
mod params;
mod pattern;
mod pixtral;
mod processor;
mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3_vl;
mod qwen_vl;
pub mod registry;
mod rotary;
mod stored;
mod table;
mod text_config;
mod text_model;
mod text_only;
mod tower;
mod transfer;
mod vit;
mod vlm;
pub mod weights;

pub use batch::{Encoded, PackedBatch, in_like_lengths};
pub use blocks::BlockSize;
pub use checkpoint::{Checkpoint, Entry};
pub use device::{DeviceName, device};
pub use error::ModelError;
pub use export::{Replacement, export_checkout};
pub use generate::{
    Generated, Generation, GenerationDefaults, Sampling, generate, generate_greedy, penalise,
};
pub use gguf::Gguf;
pub use head::Head;
pub use hub::{checkout, checkout_name};
pub use identity::{identity, weights_digest};
pub use load::{LoadOptions, Model, expected_weights, load, load_streamed};
pub use moment::Moment;
pub use params::{ModelPart, Param, ParamSet, TrainableParts};
pub use processor::Processor;
pub use registry::{ModelConfig, config_of};
pub use stored::{Footprint, Stored};
pub use table::Table;
pub use text_model::{Embeds, KvCache};
pub use transfer::download;

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
    /// Queries, keys and values come from one weight, grouped by key-value head as InternLM2 has it.
    pub fused_qkv: bool,
    /// An RMS norm over each head's queries and keys, before the rotary embedding.
    pub qk_norm: bool,
    /// What blocks of Gemma have that others do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gemma: Option<GemmaBlocks>,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// V.
    pub vocab_size: usize,
    /// The head is the input embedding.
    pub tie_word_embeddings: bool,
}

impl DecoderConfig {
    /// A norm of the decoder with `weight`.
    pub fn rms_norm(&self, weight: Tensor) -> RmsNorm {
        match self.gemma {
            Some(_) => RmsNorm::from_one(weight, self.rms_norm_eps),
            None => RmsNorm::new(weight, self.rms_norm_eps),
        }
    }
}

/// How Gemma's blocks differ from Llama's, beside norms whose weights are differences from 1, a GELU in the feed-forward
/// and text embeddings times the root of the width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GemmaBlocks {
    /// What the root is drawn of that divides products of queries and keys.
    pub query_scalar: f64,
    /// Norms of what attention and feed-forward add to the residual, as Gemma 3 has them.
    pub added_norms: bool,
}

/// A vision-language model without its head: vision encoder, projector and body.
pub trait VlmBody: Send + Sync {
    /// Sizes of the decoder.
    fn decoder(&self) -> &DecoderConfig;

    /// The input embedding, V x D.
    fn embedding(&self) -> &Table;

    /// The largest blocks of the decoder and of the vision encoder that are read when they are needed; none where all are
    /// in memory, or there is no such encoder.
    fn streamed(&self) -> [Option<BlockSize>; 2];

    /// How many tensors [`Embeds::deepstack`] has where there are images.
    fn num_taps(&self) -> usize;

    /// From now on the decoder's blocks keep their input alone in a forward pass and run again in the backward, which
    /// leaves their weights' gradients in `gradients`.
    fn recompute(&mut self, gradients: Recomputed);

    /// The decoder blocks' linear layers by the canonical names of their weights, without `.weight`; the same order
    /// always. None where blocks are read when they are needed.
    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)>;

    /// Token embeddings of each batch with image features in their rows: vision encoder and projector. Each block runs over
    /// all batches before the next one does, so that its weights are needed once.
    ///
    /// # Errors
    /// When a shape does not fit the model or the device fails.
    fn embed_all(&self, batches: &[PackedBatch]) -> Result<Vec<Embeds>>;

    /// Features of each batch's embedded tokens, (T, D): the decoder and its final norm, block by block as
    /// [`embed_all`](Self::embed_all).
    ///
    /// # Errors
    /// When a shape does not fit the model or the device fails.
    fn decode_all(&self, embeds: Vec<Embeds>, batches: &[PackedBatch]) -> Result<Vec<Tensor>>;

    /// Token embeddings of one batch, as [`embed_all`](Self::embed_all).
    ///
    /// # Errors
    /// When a shape does not fit the model or the device fails.
    fn embed(&self, batch: &PackedBatch) -> Result<Embeds> {
        match self.embed_all(std::slice::from_ref(batch))?.pop() {
            Some(embeds) => Ok(embeds),
            None => bail!("a batch was lost"),
        }
    }

    /// Features of one batch's embedded tokens, (T, D): the decoder and its final norm. With a cache, `batch` describes the
    /// tokens after those the cache already holds.
    ///
    /// # Errors
    /// When a shape does not fit the model or the device fails.
    fn decode_with(
        &self,
        embeds: &Embeds,
        batch: &PackedBatch,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor>;

    /// Features of embedded tokens, (T, D): the decoder and its final norm.
    ///
    /// # Errors
    /// When a shape does not fit the model or the device fails.
    fn decode(&self, embeds: &Embeds, batch: &PackedBatch) -> Result<Tensor> {
        self.decode_with(embeds, batch, None)
    }

    /// Features of each batch, (T, D), block by block as [`embed_all`](Self::embed_all).
    ///
    /// # Errors
    /// As [`embed_all`](Self::embed_all) and [`decode_all`](Self::decode_all).
    fn features_all(&self, batches: &[PackedBatch]) -> Result<Vec<Tensor>> {
        self.decode_all(self.embed_all(batches)?, batches)
    }

    /// Features, (T, D): the last layer after the final norm, so that the head alone gives logits.
    ///
    /// # Errors
    /// As [`embed`](Self::embed) and [`decode`](Self::decode).
    fn features(&self, batch: &PackedBatch) -> Result<Tensor> {
        self.decode(&self.embed(batch)?, batch)
    }
}
