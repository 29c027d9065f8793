//! Decoders without images: Qwen2 and 2.5, Qwen3, Llama, Mistral. The paper distils these too.

use candle_core::{DType, Result, Tensor, bail};
use serde::Serialize;
use serde_json::{Value, json};

use super::blocks::Blocks;
use super::fields::{Parsed, flag, word};
use super::layers::EncoderLayer;
use super::processor::{FamilyProcessor, ProcessorFiles};
use super::registry::{Family, FamilyConfig};
use super::text_config;
use super::tower::{Patches, Tower, TowerConfig};
use super::vlm::VlmConfig;
use super::weights::WeightSource;
use crate::image::{ImageError, ImageInput, RgbImage};

/// Qwen2 and Qwen2.5.
pub(super) static QWEN2: Family = Family::text("qwen2", "Qwen2ForCausalLM", parse, processor);
/// Qwen3.
pub(super) static QWEN3: Family = Family::text("qwen3", "Qwen3ForCausalLM", parse, processor);
/// Llama, and what shares its architecture.
pub(super) static LLAMA: Family = Family::text("llama", "LlamaForCausalLM", parse, processor);
/// Mistral without images.
pub(super) static MISTRAL: Family = Family::text("mistral", "MistralForCausalLM", parse, processor);

/// Reads config.json.
fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let architecture = json["architectures"][0].as_str().unwrap_or_default();
    let by_architecture =
        [&QWEN2, &QWEN3, &LLAMA, &MISTRAL].into_iter().find(|f| f.architecture == architecture);
    let model_type = word(json, "model_type", by_architecture.map_or("", |family| family.model_type))?;
    let text = text_config::parse(json, model_type, flag(json, "tie_word_embeddings", false)?)?;
    Ok(Box::new(VlmConfig::without_image_token(text, "model", NoVision)))
}

/// There is no vision encoder.
#[derive(Clone, Copy, Debug, Serialize)]
struct NoVision;

impl TowerConfig for NoVision {
    fn build(&self, _width: usize, _source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        Ok(Box::new(NoVision))
    }

    fn num_rows(&self, _image: &ImageInput) -> Parsed<usize> {
        Err(ImageError::NotTaken.to_string())
    }
}

impl Tower for NoVision {
    fn embed(&self, _images: &[ImageInput], _dtype: DType) -> Result<Patches> {
        bail!("{}", ImageError::NotTaken)
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        static NONE: Blocks<EncoderLayer> = Blocks::Resident(Vec::new());
        &NONE
    }

    fn project(&self, _x: Tensor, _images: &[ImageInput]) -> Result<Tensor> {
        bail!("{}", ImageError::NotTaken)
    }
}

fn processor(_files: &ProcessorFiles<'_>) -> Parsed<Box<dyn FamilyProcessor>> {
    Ok(Box::new(NoVision))
}

impl FamilyProcessor for NoVision {
    fn image_token(&self) -> Option<&str> {
        None
    }

    fn expansion(&self, _image: &ImageInput) -> String {
        String::new()
    }

    fn image(&self, _image: &RgbImage) -> std::result::Result<ImageInput, ImageError> {
        Err(ImageError::NotTaken)
    }

    fn settings(&self) -> Value {
        json!({ "type": "none" })
    }
}
