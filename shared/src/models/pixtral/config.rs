//! Pixtral's config.json. Defaults are those of transformers 5.23's `LlavaConfig` and `PixtralVisionConfig`.

use candle_core::{DType, Result, Tensor};
use serde::Serialize;
use serde_json::Value;

use super::projector::Projector;
use super::vision::VisionModel;
use crate::image::ImageInput;
use crate::models::blocks::Blocks;
use crate::models::fields::{Parsed, RopeFields, count, flag, only, word};
use crate::models::layers::{Activation, EncoderLayer};
use crate::models::llava_names::TEXT_PREFIX;
use crate::models::registry::FamilyConfig;
use crate::models::text_config::{self, TextConfig};
use crate::models::tower::{Patches, Tower, TowerConfig};
use crate::models::vlm::VlmConfig;
use crate::models::weights::WeightSource;

/// The vision encoder's sizes.
#[derive(Clone, Debug, Serialize)]
pub(in crate::models) struct VisionConfig {
    pub width: usize,
    pub mlp_width: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_channels: usize,
    /// Side in pixels.
    pub patch_size: usize,
    pub activation: Activation,
    pub rope_theta: f64,
}

impl VisionConfig {
    /// Reads `vision_config`.
    pub(in crate::models) fn parse(json: &Value) -> Parsed<Self> {
        let width = count(json, "hidden_size", 1024)?;
        let num_heads = count(json, "num_attention_heads", 16)?;
        let divides = num_heads > 0 && width.is_multiple_of(4 * num_heads);
        only(divides, format!("{num_heads} vision heads of a width of {width}"))?;
        let patch_size = count(json, "patch_size", 16)?;
        only(patch_size > 0, "`patch_size` 0")?;
        Ok(Self {
            width,
            mlp_width: count(json, "intermediate_size", 4096)?,
            num_layers: count(json, "num_hidden_layers", 24)?,
            num_heads,
            num_channels: count(json, "num_channels", 3)?,
            patch_size,
            activation: Activation::read(json, "hidden_act", "gelu")?,
            rope_theta: RopeFields::read(json, 10_000.0)?.theta,
        })
    }

    /// (rows, columns) of an image's patches.
    pub(in crate::models) fn grid(&self, image: &ImageInput) -> Parsed<[usize; 2]> {
        let (p, num_channels) = (self.patch_size, self.num_channels);
        match image.shape[..] {
            [channels, height, width]
                if channels == num_channels
                    && height.is_multiple_of(p)
                    && width.is_multiple_of(p)
                    && image.pixels.len() == channels * height * width =>
            {
                Ok([height / p, width / p])
            }
            _ => Err(format!(
                "an image of shape {:?} does not fit {num_channels} channels of patches of {p} pixels",
                image.shape
            )),
        }
    }
}

/// The encoder and LLaVA's projector.
#[derive(Serialize)]
struct PixtralConfig {
    vision: VisionConfig,
    projector_activation: Activation,
    projector_bias: bool,
}

/// Reads config.json.
pub(super) fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let strategy = word(json, "vision_feature_select_strategy", "default")?;
    only(
        strategy == "full",
        format!("`vision_feature_select_strategy` {strategy} of a vision encoder without a class token"),
    )?;
    only(
        json["vision_feature_layer"] == -1,
        format!("`vision_feature_layer` {}", json["vision_feature_layer"]),
    )?;
    let text = text(json, "llama", false)?;
    let tower = PixtralConfig {
        vision: VisionConfig::parse(&json["vision_config"])?,
        projector_activation: Activation::read(json, "projector_hidden_act", "gelu")?,
        projector_bias: flag(json, "multimodal_projector_bias", true)?,
    };
    let image_token_id = count(json, "image_token_index", count(json, "image_token_id", 32_000)?)?;
    Ok(Box::new(VlmConfig::new(text, TEXT_PREFIX, tower, image_token_id)))
}

/// The decoder; whether its head is tied may also stand in its own part.
pub(in crate::models) fn text(json: &Value, model_type: &str, tied: bool) -> Parsed<TextConfig> {
    let text = &json["text_config"];
    let tied = flag(json, "tie_word_embeddings", tied)? || flag(text, "tie_word_embeddings", false)?;
    text_config::parse(text, word(text, "model_type", model_type)?, tied)
}

struct PixtralTower {
    vision: VisionModel,
    projector: Projector,
}

impl TowerConfig for PixtralConfig {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        let widths = [self.vision.width, width];
        Ok(Box::new(PixtralTower {
            vision: VisionModel::build(&self.vision, source)?,
            projector: Projector::build(widths, self.projector_bias, self.projector_activation, source)?,
        }))
    }

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        let [rows, columns] = self.vision.grid(image)?;
        Ok(rows * columns)
    }
}

impl Tower for PixtralTower {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        self.vision.embed(images, dtype)
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        self.vision.blocks()
    }

    fn project(&self, x: Tensor, _images: &[ImageInput]) -> Result<Tensor> {
        self.projector.forward(&x)
    }
}
