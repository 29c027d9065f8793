//! Mistral3's config.json. Defaults are those of transformers 5.23's `Mistral3Config`.

use serde::Serialize;
use serde_json::Value;

use crate::models::fields::{Parsed, count, flag, only};
use crate::models::layers::Activation;
use crate::models::llava_names::TEXT_PREFIX;
use crate::models::pixtral::{self, VisionConfig};
use crate::models::registry::FamilyConfig;
use crate::models::vlm::VlmConfig;

/// The encoder, the merger and the projector.
#[derive(Serialize)]
pub(super) struct Mistral3Config {
    pub(super) vision: VisionConfig,
    /// Side of a merge window in patches.
    pub(super) merge_size: usize,
    pub(super) norm_eps: f64,
    pub(super) projector_activation: Activation,
    pub(super) projector_bias: bool,
}

/// Reads config.json.
pub(super) fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let layer = &json["vision_feature_layer"];
    only(layer.is_null() || *layer == -1, format!("`vision_feature_layer` {layer}"))?;
    let text = pixtral::text(json, "mistral", true)?;
    let merge_size = count(json, "spatial_merge_size", 2)?;
    only(merge_size > 0, "`spatial_merge_size` 0")?;
    let tower = Mistral3Config {
        vision: VisionConfig::parse(&json["vision_config"])?,
        merge_size,
        norm_eps: text.decoder.rms_norm_eps,
        projector_activation: Activation::read(json, "projector_hidden_act", "gelu")?,
        projector_bias: flag(json, "multimodal_projector_bias", false)?,
    };
    let image_token_id = count(json, "image_token_index", count(json, "image_token_id", 10)?)?;
    Ok(Box::new(VlmConfig::new(text, TEXT_PREFIX, tower, image_token_id)))
}
