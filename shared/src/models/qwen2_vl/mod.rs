//! Qwen2-VL (arXiv 2409.12191): a ViT for any resolution, a 2x2 merger, and a Qwen2 decoder with M-RoPE.

use candle_core::{DType, Result, Tensor};

use super::layers::{Recomputed, Rope};
use super::params::ModelPart;
use super::registry::Family;
use super::text_model::{KvCache, TextModel};
use super::weights::WeightSource;
use super::{DecoderConfig, PackedBatch, VlmBody};

mod config;
mod position;
mod processor;
mod vision;

/// The family's registry entry.
pub(super) static FAMILY: Family = Family {
    model_type: "qwen2_vl",
    architecture: "Qwen2VLForConditionalGeneration",
    renames: &[("model.language_model.", "model."), ("model.visual.", "visual.")],
    parts: &[
        ("visual.merger.", ModelPart::Projector),
        ("visual.", ModelPart::Vision),
        ("lm_head.", ModelPart::Head),
    ],
    ignored: &["rotary_emb.inv_freq", "rotary_pos_emb.inv_freq"],
    embedding: "model.embed_tokens.weight",
    head: "lm_head.weight",
    parse: config::parse,
    processor: processor::parse,
};

struct Qwen2Vl {
    decoder: DecoderConfig,
    mrope_section: Vec<usize>,
    vision: vision::VisionModel,
    text: TextModel,
    dtype: DType,
}

impl Qwen2Vl {
    fn build(config: &config::Config, source: &mut dyn WeightSource) -> Result<Self> {
        Ok(Self {
            vision: vision::VisionModel::build(&config.vision, config.decoder.hidden_size, source)?,
            text: TextModel::build(&config.decoder, "model", source)?,
            decoder: config.decoder.clone(),
            mrope_section: config.mrope_section.clone(),
            dtype: source.dtype(),
        })
    }
}

impl VlmBody for Qwen2Vl {
    fn decoder(&self) -> &DecoderConfig {
        &self.decoder
    }

    fn embedding(&self) -> &Tensor {
        self.text.embedding()
    }

    fn recompute(&mut self, gradients: Recomputed) {
        self.text.recompute(gradients);
    }

    fn embed(&self, batch: &PackedBatch) -> Result<Tensor> {
        let images = match batch.images.as_slice() {
            [] => None,
            images => Some(self.vision.forward(images, self.dtype)?),
        };
        self.text.embed(batch, images.as_ref(), self.dtype)
    }

    fn decode_with(
        &self,
        embeds: &Tensor,
        batch: &PackedBatch,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let DecoderConfig { head_dim, rope_theta, .. } = self.decoder;
        let rope =
            Rope::sectioned(&batch.positions, head_dim, rope_theta, &self.mrope_section, embeds.device())?;
        self.text.decode(embeds, &rope, batch, cache)
    }
}
