//! PaliGemma (arXiv 2407.07726): SigLIP over one square tile, one linear layer, and a Gemma decoder in which the question
//! sees all of itself.

use candle_core::{DType, Result, Tensor};
use serde::Serialize;
use serde_json::{Value, json};

use super::blocks::Blocks;
use super::fields::{Parsed, flag, word};
use super::layers::{EncoderLayer, Linear};
use super::llava;
use super::llava_names::{self, PROJECTOR_PREFIX, VIT_PREFIX};
use super::pattern::Pattern;
use super::registry::{Family, FamilyConfig};
use super::text_config;
use super::tower::{Patches, Tower, TowerConfig};
use super::vit::{Vit, VitConfig};
use super::vlm::VlmConfig;
use super::weights::WeightSource;
use crate::image::ImageInput;

mod processor;

/// The family's registry entry.
pub(super) static FAMILY: Family =
    llava_names::vit_family("paligemma", "PaliGemmaForConditionalGeneration", parse, processor::parse);

/// Reads config.json. Defaults are those of transformers 5.23's `PaliGemmaConfig` and `GemmaConfig`.
fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let so400m = VitConfig {
        width: 1152,
        mlp_width: 4096,
        num_layers: 27,
        num_heads: 16,
        patch_size: 14,
        ..VitConfig::siglip()
    };
    let vision = VitConfig::parse(&json["vision_config"], "siglip_vision_model", so400m)?;
    let absent = json!({
        "hidden_size": 2048, "num_hidden_layers": 18, "intermediate_size": 16384, "num_attention_heads": 8,
        "num_key_value_heads": 1, "vocab_size": 257_152,
    });
    let text = if json["text_config"].is_null() { &absent } else { &json["text_config"] };
    let tied = flag(json, "tie_word_embeddings", true)?;
    let mut config = text_config::parse(text, word(text, "model_type", "gemma")?, tied)?;
    config.pattern = Pattern::Question;
    let image_token_id = llava::image_token_id(json, 256_000)?;
    let tower = LinearConfig { vision };
    Ok(Box::new(VlmConfig::new(config, llava_names::TEXT_PREFIX, tower, image_token_id)))
}

/// Vision encoder and projector.
#[derive(Clone, Debug, Serialize)]
struct LinearConfig {
    vision: VitConfig,
}

struct LinearTower {
    vit: Vit,
    projection: Linear,
}

impl TowerConfig for LinearConfig {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        let name = format!("{PROJECTOR_PREFIX}.linear");
        Ok(Box::new(LinearTower {
            vit: Vit::build(&self.vision, VIT_PREFIX, source)?,
            projection: source.linear(&name, [width, self.vision.width], true)?,
        }))
    }

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        self.vision.num_rows(image)
    }
}

impl Tower for LinearTower {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        self.vit.embed(images, dtype)
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        self.vit.blocks()
    }

    fn project(&self, x: Tensor, _images: &[ImageInput]) -> Result<Tensor> {
        self.projection.forward(&self.vit.finish(x)?)?.flatten_to(1)
    }
}
