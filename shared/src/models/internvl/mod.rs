//! InternVL (arXiv 2504.10479) in the transformers-native layout: a ViT over tiles, pixel shuffle, a two-layer
//! projector, and a Qwen2 or Llama decoder.

use candle_core::{DType, Result, Tensor};

use super::layers::LayerNorm;
use super::params::ModelPart;
use super::projector::TwoLayerProjector;
use super::registry::Family;
use super::vlm::{ImageConfig, ImageTower};
use super::weights::WeightSource;
use crate::image::ImageInput;

mod config;
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

struct Tower {
    vision: vision::VisionModel,
    shuffle: usize,
    norm: LayerNorm,
    projector: TwoLayerProjector,
}

impl ImageConfig for config::Images {
    type Tower = Tower;

    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Tower> {
        let prefix = "multi_modal_projector";
        let shuffled = self.vision.width * self.shuffle * self.shuffle;
        let mut norm = |part: &str| source.get(&format!("{prefix}.layer_norm.{part}"), &[shuffled]);
        let norm = LayerNorm::new(norm("weight")?, norm("bias")?, PROJECTOR_NORM_EPS);
        let activation = self.projector_activation;
        Ok(Tower {
            vision: vision::VisionModel::build(&self.vision, source)?,
            shuffle: self.shuffle,
            norm,
            projector: TwoLayerProjector::build(prefix, [shuffled, width], true, activation, source)?,
        })
    }
}

impl ImageTower for Tower {
    /// Patch features (N, P, E) of square tiles -> rows (N * P/r^2, D): each r x r block of patches is one row.
    fn rows(&self, images: &[ImageInput], dtype: DType) -> Result<Tensor> {
        let x = self.vision.forward(images, dtype)?;
        let (tiles, patches, width) = x.dims3()?;
        let (side, r) = (patches.isqrt(), self.shuffle);
        let x = x.reshape(&[tiles, side / r, r, side / r, r, width][..])?;
        let x = x.permute([0, 1, 3, 2, 4, 5])?.reshape((patches * tiles / (r * r), r * r * width))?;
        self.projector.forward(&self.norm.forward(&x)?)
    }
}
