//! LLaVA-NeXT (LLaVA 1.6): CLIP tiles of images at any of a few resolutions, the two-layer projector, and a Llama, Mistral
//! or Qwen2 decoder.

use serde_json::Value;

use super::anyres::{AnyResConfig, canvases};
use super::fields::{flag, word};
use super::llava::{self, ProjectedVit};
use super::llava_names;
use super::registry::{Family, FamilyConfig};
use super::text_config;
use super::vit::VitConfig;
use super::vlm::VlmConfig;

mod processor;

/// The family's registry entry.
pub(super) static FAMILY: Family =
    llava_names::vit_family("llava_next", "LlavaNextForConditionalGeneration", parse, processor::parse);

/// (height, width) of the canvases that neither file names.
const CANVASES: [[u32; 2]; 5] = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]];

/// Reads config.json. Defaults are those of transformers 5.23's `LlavaNextConfig`.
fn parse(json: &Value) -> Result<Box<dyn FamilyConfig>, String> {
    let vision = VitConfig::parse(&json["vision_config"], "clip_vision_model", llava::clip_large())?;
    let projected = ProjectedVit::parse(json, vision.selected(json, -2, "default")?)?;
    let tower = AnyResConfig::new(projected, canvases(json, &CANVASES)?, None)?;
    let text = &json["text_config"];
    let tied = flag(json, "tie_word_embeddings", false)?;
    let text = text_config::parse(text, word(text, "model_type", "llama")?, tied)?;
    let image_token_id = llava::image_token_id(json, 32_000)?;
    Ok(Box::new(VlmConfig::new(text, llava_names::TEXT_PREFIX, tower, image_token_id)))
}
