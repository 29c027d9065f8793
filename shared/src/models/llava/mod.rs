//! LLaVA 1.5 (arXiv 2310.03744): one CLIP or SigLIP tile for each image, a two-layer projector, and a Llama, Mistral or
//! Qwen2 decoder.

use serde_json::Value;

use super::fields::{count, flag, word};
use super::params::ModelPart;
use super::registry::{Family, FamilyConfig};
use super::text_config::{self, TextConfig};
use super::vit::VitConfig;
use super::vlm::VlmConfig;

mod processor;
mod tower;

pub(super) use processor::patch_tokens;
pub(super) use tower::{ProjectedTower, ProjectedVit};

type Parsed<T> = Result<T, String>;

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

/// The image token of these families, under both names it has had.
pub(super) fn image_token_id(json: &Value, default: usize) -> Parsed<usize> {
    count(json, "image_token_index", count(json, "image_token_id", default)?)
}

/// The decoder; whether it is tied may also be said in its own configuration.
pub(super) fn tied_or_not(json: &Value, default_type: &str) -> Parsed<TextConfig> {
    let text = &json["text_config"];
    let tied = flag(json, "tie_word_embeddings", false)? || flag(text, "tie_word_embeddings", false)?;
    text_config::parse(text, word(text, "model_type", default_type)?, tied)
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
fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let vision = VitConfig::parse(&json["vision_config"], "clip_vision_model", clip_large())?;
    let tower = ProjectedVit::parse(json, vision.selected(json, -2, "default")?)?;
    let text = tied_or_not(json, "llama")?;
    Ok(Box::new(VlmConfig::new(text, TEXT_PREFIX, tower, image_token_id(json, 32_000)?)))
}
