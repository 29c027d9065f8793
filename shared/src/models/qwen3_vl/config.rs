//! Qwen3-VL's config.json. Defaults are those of transformers 5.23's `Qwen3VLVisionConfig`.

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
    /// Side of the square table of learned positions.
    pub(super) table_side: usize,
    /// The blocks whose output the decoder sees as well, in increasing order.
    pub(super) deepstack: Vec<usize>,
}

/// Reads config.json.
pub(super) fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let text = qwen_vl::text(json, "qwen3_vl_text")?;
    let vision = &json["vision_config"];
    qwen_vl::check_width("out_hidden_size", count(vision, "out_hidden_size", 3584)?, &text)?;
    let vision = self::vision(vision)?;
    if vision.deepstack.len() > text.decoder.num_layers {
        return Err(format!(
            "`deepstack_visual_indexes` {:?} needs more than the decoder's {} layers",
            vision.deepstack, text.decoder.num_layers
        ));
    }
    let image_token_id = count(json, "image_token_id", qwen_vl::IMAGE_TOKEN_ID)?;
    Ok(Box::new(VlmConfig::new(text, qwen_vl::TEXT_PREFIX, vision, image_token_id)))
}

fn vision(json: &Value) -> Parsed<VisionConfig> {
    let width = count(json, "hidden_size", 1152)?;
    let depth = count(json, "depth", 27)?;
    let positions = count(json, "num_position_embeddings", 2304)?;
    let table_side = positions.isqrt();
    if table_side == 0 || table_side * table_side != positions {
        return Err(format!("`num_position_embeddings` {positions} is not the size of a square"));
    }
    let deepstack = counts(json, "deepstack_visual_indexes", &[8, 16, 24])?;
    if !deepstack.is_sorted_by(|a, b| a < b) || deepstack.last().is_some_and(|&last| last >= depth) {
        return Err(format!(
            "`deepstack_visual_indexes` {deepstack:?} are not blocks of {depth} in increasing order"
        ));
    }
    Ok(VisionConfig {
        encoder: EncoderConfig {
            depth,
            width,
            mlp_width: count(json, "intermediate_size", 4304)?,
            num_heads: qwen_vl::num_heads(json, width)?,
            patch: PatchShape::parse(json, 16)?,
            activation: Activation::read(json, "hidden_act", "gelu_pytorch_tanh")?,
        },
        table_side,
        deepstack,
    })
}
