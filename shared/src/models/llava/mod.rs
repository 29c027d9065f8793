//! LLaVA 1.5 (arXiv 2310.03744): one CLIP or SigLIP tile for each image, a two-layer projector, and a Llama, Mistral or
//! Qwen2 decoder.

use serde_json::Value;

use super::fields::{Parsed, count, flag, word};
use super::llava_names;
use super::registry::{Family, FamilyConfig};
use super::text_config::{self, TextConfig};
use super::vit::VitConfig;
use super::vlm::VlmConfig;

mod processor;
mod tower;

pub(super) use processor::patch_tokens;
pub(super) use tower::{ProjectedTower, ProjectedVit};

/// The family's registry entry.
pub(super) static FAMILY: Family =
    llava_names::vit_family("llava", "LlavaForConditionalGeneration", parse, processor::parse);

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
    Ok(Box::new(VlmConfig::new(text, llava_names::TEXT_PREFIX, tower, image_token_id(json, 32_000)?)))
}
