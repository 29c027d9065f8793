//! Qwen2.5-VL's config.json. Defaults are those of transformers 5.23's `Qwen2_5_VLVisionConfig`.

use serde::Serialize;
use serde_json::Value;

use crate::models::fields::{Parsed, count, counts};
use crate::models::layers::Activation;
use crate::models::qwen_vl::{self, EncoderConfig, PatchShape};
use crate::models::registry::FamilyConfig;
use crate::models::vlm::VlmConfig;

/// The vision encoder's sizes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct VisionConfig {
    pub(super) encoder: EncoderConfig,
    /// Side of an attention window in merged patches.
    pub(super) window: usize,
    /// The blocks that attend to the whole frame.
    pub(super) full_attention: Vec<usize>,
}

/// Reads config.json.
pub(super) fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let text = qwen_vl::text(json, "qwen2_5_vl_text")?;
    let vision = &json["vision_config"];
    qwen_vl::check_width("out_hidden_size", count(vision, "out_hidden_size", 3584)?, &text)?;
    let vision = self::vision(vision)?;
    let image_token_id = count(json, "image_token_id", qwen_vl::IMAGE_TOKEN_ID)?;
    Ok(Box::new(VlmConfig::new(text, qwen_vl::TEXT_PREFIX, vision, image_token_id)))
}

fn vision(json: &Value) -> Parsed<VisionConfig> {
    let width = count(json, "hidden_size", 3584)?;
    let patch = PatchShape::parse(json, 14)?;
    let window_size = count(json, "window_size", 112)?;
    let window = window_size / patch.merge_size / patch.patch_size;
    if window == 0 {
        return Err(format!("`window_size` {window_size} is less than {} merged patches", patch.merge_size));
    }
    Ok(VisionConfig {
        encoder: EncoderConfig {
            depth: count(json, "depth", 32)?,
            width,
            mlp_width: count(json, "intermediate_size", 3420)?,
            num_heads: qwen_vl::num_heads(json, width)?,
            patch,
            activation: Activation::read(json, "hidden_act", "silu")?,
        },
        window,
        full_attention: counts(json, "fullatt_block_indexes", &[7, 15, 23, 31])?,
    })
}
