//! Qwen2-VL's config.json. Defaults are those of transformers 5.23's `Qwen2VLVisionConfig`.

use serde_json::Value;

use super::vision::VisionConfig;
use crate::models::fields::{Parsed, count, number};
use crate::models::layers::Activation;
use crate::models::qwen_vl::{self, EncoderConfig, PatchShape};
use crate::models::registry::FamilyConfig;
use crate::models::vlm::VlmConfig;

/// Reads config.json.
pub(super) fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let text = qwen_vl::text(json, "qwen2_vl_text")?;
    qwen_vl::check_width("hidden_size", count(&json["vision_config"], "hidden_size", 3584)?, &text)?;
    let vision = vision(&json["vision_config"])?;
    let image_token_id = count(json, "image_token_id", qwen_vl::IMAGE_TOKEN_ID)?;
    Ok(Box::new(VlmConfig::new(text, qwen_vl::TEXT_PREFIX, vision, image_token_id)))
}

fn vision(json: &Value) -> Parsed<VisionConfig> {
    let width = count(json, "embed_dim", 1280)?;
    Ok(VisionConfig(EncoderConfig {
        depth: count(json, "depth", 32)?,
        width,
        mlp_width: (width as f64 * number(json, "mlp_ratio", 4.0)?) as usize,
        num_heads: qwen_vl::num_heads(json, width)?,
        patch: PatchShape::parse(json, 14)?,
        activation: Activation::read(json, "hidden_act", "quick_gelu")?,
    }))
}
