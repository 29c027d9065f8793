//! InternVL's config.json in the transformers-native (`-hf`) layout.
//!
//! Defaults are those of transformers 5.23's `InternVLConfig`, `InternVLVisionConfig`, `Qwen2Config` and
//! `LlamaConfig`.

use candle_core::Result;
use serde::Serialize;
use serde_json::Value;

use crate::models::fields::{Activation, RopeFields, count, flag, number, only, pair, word};
use crate::models::registry::FamilyConfig;
use crate::models::weights::WeightSource;
use crate::models::{DecoderConfig, VlmBody};

type Parsed<T> = std::result::Result<T, String>;

/// A resolved configuration.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Config {
    pub(super) decoder: DecoderConfig,
    pub(super) vision: VisionConfig,
    /// How many patches a side become one row of the projector.
    pub(super) shuffle: usize,
    pub(super) projector_activation: Activation,
    image_token_id: u32,
    /// With `dynamic` rotary scaling, positions from here on would be rotated differently.
    pub(super) rope_limit: Option<usize>,
    #[serde(skip)]
    max_positions: usize,
}

/// The vision encoder's sizes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct VisionConfig {
    pub(super) width: usize,
    pub(super) num_layers: usize,
    pub(super) num_heads: usize,
    pub(super) mlp_width: usize,
    pub(super) num_channels: usize,
    /// (height, width) in pixels.
    pub(super) image_size: [usize; 2],
    /// (height, width) in pixels.
    pub(super) patch_size: [usize; 2],
    pub(super) attention_bias: bool,
    pub(super) qk_norm: bool,
    pub(super) rms_norm: bool,
    pub(super) norm_eps: f64,
    pub(super) position_embeddings: bool,
    /// With mean pooling there is no norm after the last layer.
    pub(super) final_norm: bool,
    pub(super) activation: Activation,
}

impl VisionConfig {
    /// (rows, columns) of patches in a tile.
    pub(super) fn grid(&self) -> [usize; 2] {
        [self.image_size[0] / self.patch_size[0], self.image_size[1] / self.patch_size[1]]
    }
}

/// Reads config.json.
pub(super) fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let layer = &json["vision_feature_layer"];
    only(layer.is_null() || *layer == -1, format!("`vision_feature_layer` {layer}"))?;
    let strategy = word(json, "vision_feature_select_strategy", "default")?;
    only(strategy == "default", format!("`vision_feature_select_strategy` {strategy}"))?;
    let vision = vision(&json["vision_config"])?;
    let shuffle = (1.0 / number(json, "downsample_ratio", 0.5)?) as usize;
    let [rows, columns] = vision.grid();
    if rows != columns || shuffle == 0 || rows % shuffle != 0 {
        return Err(format!("a grid of {rows} x {columns} patches cannot be shuffled by {shuffle}"));
    }
    let text = &json["text_config"];
    let (decoder, rope_limit) = decoder(json, text)?;
    Ok(Box::new(Config {
        max_positions: max_positions(text)?,
        decoder,
        vision,
        shuffle,
        projector_activation: Activation::read(json, "projector_hidden_act", "gelu")?,
        image_token_id: count(json, "image_token_id", 151_667)? as u32,
        rope_limit,
    }))
}

fn max_positions(text: &Value) -> Parsed<usize> {
    let default = if text["model_type"] == "llama" { 2048 } else { 32_768 };
    count(text, "max_position_embeddings", default)
}

fn decoder(json: &Value, text: &Value) -> Parsed<(DecoderConfig, Option<usize>)> {
    let model_type = word(text, "model_type", "qwen2")?;
    let llama = model_type == "llama";
    only(
        llama || model_type == "qwen2",
        format!("a text model of type `{model_type}` (qwen2 and llama are)"),
    )?;
    only(word(text, "hidden_act", "silu")? == "silu", "a text activation other than silu")?;
    only(!flag(text, "use_sliding_window", false)?, "`use_sliding_window`")?;
    only(!llama || !flag(text, "attention_bias", false)?, "`attention_bias` of a llama text model")?;
    only(!llama || !flag(text, "mlp_bias", false)?, "`mlp_bias` of a llama text model")?;
    let rope = RopeFields::read(text, 10_000.0)?;
    only(matches!(rope.kind, "default" | "dynamic"), format!("rotary scaling `{}`", rope.kind))?;
    let rope_limit = if rope.kind == "dynamic" { Some(max_positions(text)?) } else { None };
    let hidden_size = count(text, "hidden_size", 4096)?;
    let num_heads = count(text, "num_attention_heads", 32)?.max(1);
    let num_kv_heads = match text.get("num_key_value_heads") {
        None if !llama => 32,
        _ => count(text, "num_key_value_heads", num_heads)?,
    };
    let decoder = DecoderConfig {
        hidden_size,
        intermediate_size: count(text, "intermediate_size", if llama { 11_008 } else { 22_016 })?,
        num_layers: count(text, "num_hidden_layers", 32)?,
        num_heads,
        num_kv_heads,
        head_dim: count(text, "head_dim", hidden_size / num_heads)?,
        qkv_bias: !llama,
        rms_norm_eps: number(text, "rms_norm_eps", 1e-6)?,
        rope_theta: rope.theta,
        vocab_size: count(text, "vocab_size", if llama { 32_000 } else { 151_936 })?,
        tie_word_embeddings: flag(json, "tie_word_embeddings", true)?,
    };
    Ok((decoder, rope_limit))
}

fn vision(json: &Value) -> Parsed<VisionConfig> {
    only(!flag(json, "use_mask_token", false)?, "`use_mask_token`")?;
    let norm_type = word(json, "norm_type", "layer_norm")?;
    only(matches!(norm_type, "layer_norm" | "rms_norm"), format!("`norm_type` {norm_type}"))?;
    let width = count(json, "hidden_size", 1024)?;
    let num_heads = count(json, "num_attention_heads", 16)?;
    only(width.is_multiple_of(num_heads.max(1)), format!("{num_heads} vision heads of a width of {width}"))?;
    Ok(VisionConfig {
        width,
        num_layers: count(json, "num_hidden_layers", 24)?,
        num_heads,
        mlp_width: count(json, "intermediate_size", 4096)?,
        num_channels: count(json, "num_channels", 3)?,
        image_size: pair(json, "image_size", 448)?,
        patch_size: pair(json, "patch_size", 14)?,
        attention_bias: flag(json, "attention_bias", false)?,
        qk_norm: flag(json, "use_qk_norm", false)?,
        rms_norm: norm_type == "rms_norm",
        norm_eps: number(json, "layer_norm_eps", 1e-6)?,
        position_embeddings: flag(json, "use_absolute_position_embeddings", true)?,
        final_norm: !flag(json, "use_mean_pooling", true)?,
        activation: Activation::read(json, "hidden_act", "gelu")?,
    })
}

impl FamilyConfig for Config {
    fn decoder(&self) -> &DecoderConfig {
        &self.decoder
    }

    fn build(&self, source: &mut dyn WeightSource) -> Result<Box<dyn VlmBody>> {
        Ok(Box::new(super::InternVl::build(self, source)?))
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
