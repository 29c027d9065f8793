//! InternVL's config.json in the transformers-native (`-hf`) layout.
//!
//! Defaults are those of transformers 5.23's `InternVLConfig` and `InternVLVisionConfig`.

use serde::Serialize;
use serde_json::Value;

use crate::image::ImageInput;
use crate::models::fields::{Parsed, count, flag, number, only, pair, word};
use crate::models::layers::Activation;
use crate::models::llava_names::TEXT_PREFIX;
use crate::models::registry::FamilyConfig;
use crate::models::text_config;
use crate::models::tower::num_tiles;
use crate::models::vlm::VlmConfig;

/// The vision encoder and its projector.
#[derive(Clone, Debug, Serialize)]
pub(in crate::models) struct TileTowerConfig {
    pub vision: VisionConfig,
    /// How many patches a side become one row of the projector.
    pub shuffle: usize,
    pub projector_activation: Activation,
}

impl TileTowerConfig {
    /// Checks that tiles can be shuffled by `1 / downsample_ratio`.
    pub(in crate::models) fn new(
        vision: VisionConfig,
        downsample_ratio: f64,
        projector_activation: Activation,
    ) -> Parsed<Self> {
        let shuffle = (1.0 / downsample_ratio) as usize;
        let [rows, columns] = vision.grid();
        if rows != columns || shuffle == 0 || rows % shuffle != 0 {
            return Err(format!("a grid of {rows} x {columns} patches cannot be shuffled by {shuffle}"));
        }
        Ok(Self { vision, shuffle, projector_activation })
    }
}

/// The vision encoder's sizes.
#[derive(Clone, Debug, Serialize)]
pub(in crate::models) struct VisionConfig {
    pub width: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub mlp_width: usize,
    pub num_channels: usize,
    /// (height, width) in pixels.
    pub image_size: [usize; 2],
    /// (height, width) in pixels.
    pub patch_size: [usize; 2],
    pub attention_bias: bool,
    /// Queries, keys and values come from one weight.
    pub fused_qkv: bool,
    pub qk_norm: bool,
    pub rms_norm: bool,
    pub norm_eps: f64,
    pub position_embeddings: bool,
    /// With mean pooling there is no norm after the last layer.
    pub final_norm: bool,
    pub activation: Activation,
}

impl VisionConfig {
    /// (rows, columns) of patches in a tile.
    pub(super) fn grid(&self) -> [usize; 2] {
        [self.image_size[0] / self.patch_size[0], self.image_size[1] / self.patch_size[1]]
    }

    /// Of how many tiles an image consists.
    pub(super) fn num_tiles(&self, image: &ImageInput) -> Parsed<usize> {
        let [height, width] = self.image_size;
        num_tiles(image, [self.num_channels, height, width])
    }
}

/// Reads config.json.
pub(super) fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let layer = &json["vision_feature_layer"];
    only(layer.is_null() || *layer == -1, format!("`vision_feature_layer` {layer}"))?;
    let strategy = word(json, "vision_feature_select_strategy", "default")?;
    only(strategy == "default", format!("`vision_feature_select_strategy` {strategy}"))?;
    let text = &json["text_config"];
    let model_type = word(text, "model_type", "qwen2")?;
    let text = text_config::parse(text, model_type, flag(json, "tie_word_embeddings", true)?)?;
    let tower = TileTowerConfig::new(
        vision(&json["vision_config"])?,
        number(json, "downsample_ratio", 0.5)?,
        Activation::read(json, "projector_hidden_act", "gelu")?,
    )?;
    let image_token_id = count(json, "image_token_id", 151_667)?;
    Ok(Box::new(VlmConfig::new(text, TEXT_PREFIX, tower, image_token_id)))
}

fn vision(json: &Value) -> Parsed<VisionConfig> {
    only(!flag(json, "use_mask_token", false)?, "`use_mask_token`")?;
    let norm_type = word(json, "norm_type", "layer_norm")?;
    only(matches!(norm_type, "layer_norm" | "rms_norm"), format!("`norm_type` {norm_type}"))?;
    let width = count(json, "hidden_size", 1024)?;
    let num_heads = count(json, "num_attention_heads", 16)?;
    only(width.is_multiple_of(num_heads.max(1)), format!("{num_heads} vision heads of a width of {width}"))?;
    let patch_size = pair(json, "patch_size", 14)?;
    only(!patch_size.contains(&0), "`patch_size` 0")?;
    Ok(VisionConfig {
        width,
        num_layers: count(json, "num_hidden_layers", 24)?,
        num_heads,
        mlp_width: count(json, "intermediate_size", 4096)?,
        num_channels: count(json, "num_channels", 3)?,
        image_size: pair(json, "image_size", 448)?,
        patch_size,
        attention_bias: flag(json, "attention_bias", false)?,
        fused_qkv: false,
        qk_norm: flag(json, "use_qk_norm", false)?,
        rms_norm: norm_type == "rms_norm",
        norm_eps: number(json, "layer_norm_eps", 1e-6)?,
        position_embeddings: flag(json, "use_absolute_position_embeddings", true)?,
        final_norm: !flag(json, "use_mean_pooling", true)?,
        activation: Activation::read(json, "hidden_act", "gelu")?,
    })
}
