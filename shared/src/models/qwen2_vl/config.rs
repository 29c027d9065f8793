//! Qwen2-VL's config.json: flat as on the hub, or nested as transformers 5 writes it.
//!
//! Defaults are those of transformers 5.23's `Qwen2VLTextConfig` and `Qwen2VLVisionConfig`.

use candle_core::Result;
use serde::Serialize;
use serde_json::Value;

use crate::models::fields::{Activation, RopeFields, count, flag, number, only, word};
use crate::models::registry::FamilyConfig;
use crate::models::weights::WeightSource;
use crate::models::{DecoderConfig, VlmBody};

/// A resolved configuration.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Config {
    pub(super) decoder: DecoderConfig,
    /// How many of the K/2 angles follow time, height and width.
    pub(super) mrope_section: Vec<usize>,
    pub(super) vision: VisionConfig,
    image_token_id: u32,
    #[serde(skip)]
    max_positions: usize,
}

/// The vision encoder's sizes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct VisionConfig {
    pub(super) depth: usize,
    pub(super) width: usize,
    pub(super) mlp_width: usize,
    pub(super) num_heads: usize,
    pub(super) in_channels: usize,
    pub(super) patch_size: usize,
    pub(super) temporal_patch_size: usize,
    pub(super) merge_size: usize,
    pub(super) activation: Activation,
}

/// Reads config.json.
pub(super) fn parse(json: &Value) -> std::result::Result<Box<dyn FamilyConfig>, String> {
    let text = if json["text_config"].is_object() { &json["text_config"] } else { json };
    let rope = RopeFields::read(text, 1_000_000.0)?;
    only(matches!(rope.kind, "default" | "mrope"), format!("rotary scaling `{}`", rope.kind))?;
    let mrope_section = match &rope.json["mrope_section"] {
        Value::Null => vec![16, 24, 24],
        value => {
            serde_json::from_value(value.clone()).map_err(|error| format!("`mrope_section`: {error}"))?
        }
    };
    let decoder = decoder(json, text, rope.theta)?;
    if mrope_section.iter().sum::<usize>() * 2 != decoder.head_dim {
        return Err(format!(
            "`mrope_section` {mrope_section:?} does not sum to half the head width {}",
            decoder.head_dim
        ));
    }
    let vision = vision(&json["vision_config"], decoder.hidden_size)?;
    let image_token_id = count(json, "image_token_id", 151_655)? as u32;
    let max_positions = count(text, "max_position_embeddings", 32_768)?;
    Ok(Box::new(Config { decoder, mrope_section, vision, image_token_id, max_positions }))
}

fn decoder(json: &Value, text: &Value, rope_theta: f64) -> std::result::Result<DecoderConfig, String> {
    only(word(text, "hidden_act", "silu")? == "silu", "a text activation other than silu")?;
    only(!flag(text, "use_sliding_window", false)?, "`use_sliding_window`")?;
    let hidden_size = count(text, "hidden_size", 8192)?;
    let num_heads = count(text, "num_attention_heads", 64)?;
    let num_kv_heads = match text.get("num_key_value_heads") {
        Some(Value::Null) => num_heads,
        _ => count(text, "num_key_value_heads", 8)?,
    };
    only(
        hidden_size.is_multiple_of(num_heads.max(1)),
        format!("{num_heads} heads of a width of {hidden_size}"),
    )?;
    Ok(DecoderConfig {
        hidden_size,
        intermediate_size: count(text, "intermediate_size", 29_568)?,
        num_layers: count(text, "num_hidden_layers", 80)?,
        num_heads,
        num_kv_heads,
        head_dim: hidden_size / num_heads.max(1),
        qkv_bias: true,
        rms_norm_eps: number(text, "rms_norm_eps", 1e-5)?,
        rope_theta,
        vocab_size: count(text, "vocab_size", 152_064)?,
        // Checkpoints written before transformers 5 may say it in the text configuration only.
        tie_word_embeddings: flag(json, "tie_word_embeddings", false)?
            || flag(text, "tie_word_embeddings", false)?,
    })
}

fn vision(json: &Value, text_width: usize) -> std::result::Result<VisionConfig, String> {
    let width = count(json, "embed_dim", 1280)?;
    let projected = count(json, "hidden_size", 3584)?;
    if projected != text_width {
        return Err(format!("`vision_config.hidden_size` is {projected}, the decoder's width {text_width}"));
    }
    Ok(VisionConfig {
        depth: count(json, "depth", 32)?,
        width,
        mlp_width: (width as f64 * number(json, "mlp_ratio", 4.0)?) as usize,
        num_heads: count(json, "num_heads", 16)?,
        in_channels: count(json, "in_channels", 3)?,
        patch_size: count(json, "patch_size", 14)?,
        temporal_patch_size: count(json, "temporal_patch_size", 2)?,
        merge_size: count(json, "spatial_merge_size", 2)?,
        activation: Activation::read(json, "hidden_act", "quick_gelu")?,
    })
}

impl FamilyConfig for Config {
    fn decoder(&self) -> &DecoderConfig {
        &self.decoder
    }

    fn build(&self, source: &mut dyn WeightSource) -> Result<Box<dyn VlmBody>> {
        Ok(Box::new(super::Qwen2Vl::build(self, source)?))
    }

    fn image_token_id(&self) -> u32 {
        self.image_token_id
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn canonical(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}
