//! The original InternVL config.json. Defaults are those of the classes that come with these checkpoints
//! (`InternVLChatConfig`, `InternVisionConfig`), and of transformers' for Qwen2 and Llama.

use serde_json::Value;

use crate::models::fields::{Parsed, count, flag, number, only, word};
use crate::models::internvl::{TileTowerConfig, VisionConfig};
use crate::models::layers::Activation;
use crate::models::llava_names::TEXT_PREFIX;
use crate::models::registry::FamilyConfig;
use crate::models::text_config;
use crate::models::vlm::VlmConfig;

/// Reads config.json. It does not say which token image features replace: the tokenizer does.
pub(super) fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let layer = &json["select_layer"];
    only(layer.is_null() || *layer == -1, format!("`select_layer` {layer}"))?;
    // Version 1, which shuffles pixels into another order, ended before InternVL 1.5.
    let version = word(json, "ps_version", "v2")?;
    only(version == "v2", format!("`ps_version` {version}"))?;
    let text = &json["llm_config"];
    let tied = flag(json, "tie_word_embeddings", false)? || flag(text, "tie_word_embeddings", false)?;
    let text = text_config::parse(text, text_type(text)?, tied)?;
    let ratio = number(json, "downsample_ratio", 0.5)?;
    let tower = TileTowerConfig::new(vision(json)?, ratio, Activation::Gelu)?;
    Ok(Box::new(VlmConfig::without_image_token(text, TEXT_PREFIX, tower)))
}

/// The decoder's class, which the original code chooses by its architecture.
fn text_type(text: &Value) -> Parsed<&str> {
    Ok(match text["architectures"][0].as_str() {
        Some("InternLM2ForCausalLM") => "internlm2",
        Some("Qwen2ForCausalLM") => "qwen2",
        Some("Qwen3ForCausalLM") => "qwen3",
        Some("LlamaForCausalLM") => "llama",
        Some(other) => return Err(format!("a text model `{other}` is not supported")),
        None => word(text, "model_type", "llama")?,
    })
}

/// Side of a tile in pixels.
pub(super) fn tile_side(json: &Value) -> Parsed<usize> {
    let trained = count(&json["vision_config"], "image_size", 224)?;
    let side = count(json, "force_image_size", trained)?;
    only(side == trained, format!("`force_image_size` {side} with positions for {trained}"))?;
    Ok(side)
}

fn vision(json: &Value) -> Parsed<VisionConfig> {
    let side = tile_side(json)?;
    let json = &json["vision_config"];
    let norm_type = word(json, "norm_type", "rms_norm")?;
    only(matches!(norm_type, "layer_norm" | "rms_norm"), format!("`norm_type` {norm_type}"))?;
    let width = count(json, "hidden_size", 3200)?;
    let num_heads = count(json, "num_attention_heads", 25)?;
    only(width.is_multiple_of(num_heads.max(1)), format!("{num_heads} vision heads of a width of {width}"))?;
    let patch = count(json, "patch_size", 14)?;
    only(patch > 0 && side >= patch, format!("`patch_size` {patch} of tiles of {side}"))?;
    Ok(VisionConfig {
        width,
        num_layers: count(json, "num_hidden_layers", 48)?,
        num_heads,
        mlp_width: count(json, "intermediate_size", 12_800)?,
        num_channels: count(json, "num_channels", 3)?,
        image_size: [side; 2],
        patch_size: [patch; 2],
        attention_bias: flag(json, "qkv_bias", false)?,
        fused_qkv: true,
        qk_norm: flag(json, "qk_normalization", true)?,
        rms_norm: norm_type == "rms_norm",
        norm_eps: number(json, "layer_norm_eps", 1e-6)?,
        position_embeddings: true,
        final_norm: false,
        activation: Activation::read(json, "hidden_act", "gelu")?,
    })
}
