//! InternVL (arXiv 2504.10479) in the transformers-native layout: a ViT over tiles, pixel shuffle, a two-layer
//! projector, and a Qwen2 or Llama decoder.

use candle_core::{DType, Result, Tensor, bail};

use super::fields::Activation;
use super::layers::{LayerNorm, Linear, Recomputed, Rope};
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
    model_type: "internvl",
    architecture: "InternVLForConditionalGeneration",
    renames: &[
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ],
    parts: &[
        ("vision_tower.", ModelPart::Vision),
        ("multi_modal_projector.", ModelPart::Projector),
        ("language_model.lm_head.", ModelPart::Head),
    ],
    ignored: &["rotary_emb.inv_freq", "embeddings.position_ids"],
    embedding: "language_model.model.embed_tokens.weight",
    head: "language_model.lm_head.weight",
    parse: config::parse,
    processor: processor::parse,
};

/// The projector's norm keeps PyTorch's default.
const PROJECTOR_NORM_EPS: f64 = 1e-5;

struct InternVl {
    decoder: DecoderConfig,
    rope_limit: Option<usize>,
    vision: vision::VisionModel,
    projector: Projector,
    text: TextModel,
    dtype: DType,
}

struct Projector {
    shuffle: usize,
    norm: LayerNorm,
    linear_1: Linear,
    activation: Activation,
    linear_2: Linear,
}

impl Projector {
    fn build(config: &config::Config, source: &mut dyn WeightSource) -> Result<Self> {
        let shuffled = config.vision.width * config.shuffle * config.shuffle;
        let width = config.decoder.hidden_size;
        let mut get =
            |name: &str, shape: &[usize]| source.get(&format!("multi_modal_projector.{name}"), shape);
        let norm = LayerNorm::new(
            get("layer_norm.weight", &[shuffled])?,
            get("layer_norm.bias", &[shuffled])?,
            PROJECTOR_NORM_EPS,
        );
        let linear_1 =
            Linear::new(get("linear_1.weight", &[width, shuffled])?, Some(get("linear_1.bias", &[width])?));
        let linear_2 =
            Linear::new(get("linear_2.weight", &[width, width])?, Some(get("linear_2.bias", &[width])?));
        Ok(Self {
            shuffle: config.shuffle,
            norm,
            linear_1,
            activation: config.projector_activation,
            linear_2,
        })
    }

    /// Patch features (N, P, E) of square tiles -> rows (N * P/r^2, D): each r x r block of patches is one row.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (tiles, patches, width) = x.dims3()?;
        let (side, r) = (patches.isqrt(), self.shuffle);
        let x = x.reshape(&[tiles, side / r, r, side / r, r, width][..])?;
        let x = x.permute([0, 1, 3, 2, 4, 5])?.reshape((patches * tiles / (r * r), r * r * width))?;
        let x = self.linear_1.forward(&self.norm.forward(&x)?)?;
        self.linear_2.forward(&self.activation.apply(&x)?)
    }
}

impl InternVl {
    fn build(config: &config::Config, source: &mut dyn WeightSource) -> Result<Self> {
        Ok(Self {
            vision: vision::VisionModel::build(&config.vision, source)?,
            projector: Projector::build(config, source)?,
            text: TextModel::build(&config.decoder, "language_model.model", source)?,
            decoder: config.decoder.clone(),
            rope_limit: config.rope_limit,
            dtype: source.dtype(),
        })
    }
}

impl VlmBody for InternVl {
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
            images => Some(self.projector.forward(&self.vision.forward(images, self.dtype)?)?),
        };
        self.text.embed(batch, images.as_ref(), self.dtype)
    }

    fn decode_with(
        &self,
        embeds: &Tensor,
        batch: &PackedBatch,
        cache: Option<&mut KvCache>,
    ) -> Result<Tensor> {
        let positions: Vec<u32> = batch.positions.iter().map(|position| position[0]).collect();
        if let (Some(limit), Some(&last)) = (self.rope_limit, positions.iter().max())
            && last as usize >= limit
        {
            bail!(
                "a sample of {} tokens: `dynamic` rotary scaling is supported up to {limit}\nhint: limit the length of samples",
                last + 1
            )
        }
        let rope = Rope::new(&positions, self.decoder.head_dim, self.decoder.rope_theta, embeds.device())?;
        self.text.decode(embeds, &rope, batch, cache)
    }
}
