//! Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299): SigLIP tiles, pixel shuffle and one linear layer, and a
//! Llama decoder. The two differ in their names only.

use candle_core::{DType, Result, Tensor};
use serde::Serialize;
use serde_json::{Value, json};

use super::blocks::Blocks;
use super::fields::{Parsed, count, flag, only, word};
use super::layers::{EncoderLayer, Linear, pixel_shuffle};
use super::params::ModelPart;
use super::registry::{Family, FamilyConfig};
use super::text_config;
use super::tower::{Patches, Tower, TowerConfig};
use super::vit::{Vit, VitConfig};
use super::vlm::VlmConfig;
use super::weights::WeightSource;
use crate::image::ImageInput;

mod processor;

/// Idefics3's registry entry.
pub(super) static FAMILY: Family = family("idefics3", "Idefics3ForConditionalGeneration");
/// SmolVLM's registry entry.
pub(super) static SMOLVLM: Family = family("smolvlm", "SmolVLMForConditionalGeneration");

const fn family(model_type: &'static str, architecture: &'static str) -> Family {
    Family {
        parts: &[
            ("model.vision_model.", ModelPart::Vision),
            ("model.connector.", ModelPart::Projector),
            ("lm_head.", ModelPart::Head),
        ],
        ignored: &["rotary_emb.inv_freq", "embeddings.position_ids"],
        embedding: "model.text_model.embed_tokens.weight",
        ..Family::text(model_type, architecture, parse, processor::parse)
    }
}

/// Vision encoder and projector. Positions among patches are those of whole tiles; transformers finds them by
/// comparing fractions in float32, which for tiles of 8, 13, 14, 16, 24, 26, 27 and 32 patches a side is the same.
#[derive(Clone, Debug, Serialize)]
struct TileTowerConfig {
    vision: VitConfig,
    /// How many patches a side become one row of the projector.
    shuffle: usize,
}

/// Reads config.json. Defaults are those of transformers 5.23's `Idefics3Config` and `SmolVLMConfig`.
fn parse(json: &Value) -> std::result::Result<Box<dyn FamilyConfig>, String> {
    let class = VitConfig { width: 1152, num_heads: 16, patch_size: 32, ..VitConfig::siglip() };
    let vision = VitConfig::read(&json["vision_config"], class)?;
    let shuffle = count(json, "scale_factor", 2)?;
    let side = vision.tile().patches_per_side();
    only(
        shuffle > 0 && side.is_multiple_of(shuffle),
        format!("`scale_factor` {shuffle} over {side} patches a side"),
    )?;
    let absent = json!({"rms_norm_eps": 1e-5});
    let text = if json["text_config"].is_null() { &absent } else { &json["text_config"] };
    let tied = flag(json, "tie_word_embeddings", false)?;
    let text = text_config::parse(text, word(text, "model_type", "llama")?, tied)?;
    let image_token_id = count(json, "image_token_id", 128_257)?;
    let tower = TileTowerConfig { vision, shuffle };
    Ok(Box::new(VlmConfig::new(text, "model.text_model", tower, image_token_id)))
}

struct TileTower {
    vit: Vit,
    shuffle: usize,
    projection: Linear,
}

impl TowerConfig for TileTowerConfig {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        let shuffled = self.vision.width * self.shuffle * self.shuffle;
        let name = "model.connector.modality_projection.proj";
        Ok(Box::new(TileTower {
            vit: Vit::build(&self.vision, "model.vision_model", source)?,
            shuffle: self.shuffle,
            projection: source.linear(name, [width, shuffled], false)?,
        }))
    }

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        self.vision.num_merged_rows(image, self.shuffle)
    }
}

impl Tower for TileTower {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        self.vit.embed(images, dtype)
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        self.vit.blocks()
    }

    fn project(&self, x: Tensor, _images: &[ImageInput]) -> Result<Tensor> {
        self.projection.forward(&pixel_shuffle(&self.vit.finish(x)?, self.shuffle)?)
    }
}
