//! LLaVA 1.5 (arXiv 2310.03744): one CLIP or SigLIP tile for each image, a two-layer projector, and a Llama, Mistral or
//! Qwen2 decoder.

use candle_core::{DType, Result, Tensor};
use serde::Serialize;
use serde_json::Value;

use super::fields::{Activation, count, flag};
use super::params::ModelPart;
use super::projector::TwoLayerProjector;
use super::registry::{Family, FamilyConfig};
use super::text_config::TextConfig;
use super::vit::{Vit, VitConfig};
use super::vlm::{ImageConfig, ImageTower, VlmConfig};
use super::weights::WeightSource;
use crate::image::ImageInput;

mod processor;

/// The family's registry entry.
pub(super) static FAMILY: Family = Family {
    model_type: "llava",
    architecture: "LlavaForConditionalGeneration",
    renames: RENAMES,
    parts: PARTS,
    ignored: IGNORED,
    embedding: EMBEDDING,
    head: HEAD,
    parse,
    processor: processor::parse,
};

/// The names that every family of a CLIP or SigLIP tower, a projector and a decoder has had: as on the hub, as
/// transformers 4.52 and 5 hold them, and as 5 saves them.
pub(super) const RENAMES: &[(&str, &str)] = &[
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("vision_tower.vision_model.", "vision_tower.vision_model."),
    ("vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
];
/// Which part each of those names belongs to.
pub(super) const PARTS: &[(&str, ModelPart)] = &[
    ("vision_tower.", ModelPart::Vision),
    ("multi_modal_projector.", ModelPart::Projector),
    ("image_newline", ModelPart::Projector),
    ("language_model.lm_head.", ModelPart::Head),
];
/// Buffers that older checkpoints store.
pub(super) const IGNORED: &[&str] = &["rotary_emb.inv_freq", "embeddings.position_ids"];
/// The input embedding of those names.
pub(super) const EMBEDDING: &str = "language_model.model.embed_tokens.weight";
/// The head of those names.
pub(super) const HEAD: &str = "language_model.lm_head.weight";
/// Where the vision tower lies among those names.
pub(super) const VISION_PREFIX: &str = "vision_tower.vision_model";
/// Where the projector lies among those names.
pub(super) const PROJECTOR_PREFIX: &str = "multi_modal_projector";
/// Where the decoder lies among those names.
pub(super) const TEXT_PREFIX: &str = "language_model.model";

/// Vision encoder and projector; LLaVA-NeXT and OneVision have the same.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ProjectedVit {
    pub vision: VitConfig,
    projector_activation: Activation,
    projector_bias: bool,
}

impl ProjectedVit {
    /// Reads it from config.json; `vision` is the encoder with the layer that is used.
    pub(super) fn parse(json: &Value, vision: VitConfig) -> std::result::Result<Self, String> {
        Ok(Self {
            vision,
            projector_activation: Activation::read(json, "projector_hidden_act", "gelu")?,
            projector_bias: flag(json, "multimodal_projector_bias", true)?,
        })
    }
}

/// The image token of LLaVA's families, under both names it has had.
pub(super) fn image_token_id(json: &Value, default: usize) -> std::result::Result<u32, String> {
    Ok(count(json, "image_token_index", count(json, "image_token_id", default)?)? as u32)
}

/// CLIP's large encoder, which LLaVA 1.5 and NeXT mean where they have no `vision_config`.
pub(super) fn clip_large() -> VitConfig {
    VitConfig {
        width: 1024,
        mlp_width: 4096,
        num_layers: 24,
        num_heads: 16,
        image_size: 336,
        patch_size: 14,
        ..VitConfig::clip()
    }
}

/// Reads config.json. Defaults are those of transformers 5.23's `LlavaConfig`.
fn parse(json: &Value) -> std::result::Result<Box<dyn FamilyConfig>, String> {
    let vision = VitConfig::parse(&json["vision_config"], "clip_vision_model", clip_large())?;
    let vision = vision.selected(json, -2, "default")?;
    let text = &json["text_config"];
    let tied = flag(json, "tie_word_embeddings", false)? || flag(text, "tie_word_embeddings", false)?;
    Ok(Box::new(VlmConfig {
        text: TextConfig::parse(text, "llama", tied)?,
        images: ProjectedVit::parse(json, vision)?,
        image_token_id: image_token_id(json, 32_000)?,
        text_prefix: TEXT_PREFIX,
    }))
}

/// What [`ProjectedVit`] builds.
pub(super) struct Tower {
    vit: Vit,
    projector: TwoLayerProjector,
}

impl Tower {
    /// Projected patches of all tiles of all images, (N, P, D).
    pub(super) fn tiles(&self, images: &[ImageInput], dtype: DType) -> Result<Tensor> {
        self.projector.forward(&self.vit.forward(images, dtype)?)
    }
}

impl ImageConfig for ProjectedVit {
    type Tower = Tower;

    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Tower> {
        let widths = [self.vision.width, width];
        let (bias, activation) = (self.projector_bias, self.projector_activation);
        Ok(Tower {
            vit: Vit::build(&self.vision, VISION_PREFIX, source)?,
            projector: TwoLayerProjector::build(PROJECTOR_PREFIX, widths, bias, activation, source)?,
        })
    }
}

impl ImageTower for Tower {
    fn rows(&self, images: &[ImageInput], dtype: DType) -> Result<Tensor> {
        self.tiles(images, dtype)?.flatten_to(1)
    }
}
