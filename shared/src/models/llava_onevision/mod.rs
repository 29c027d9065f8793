//! LLaVA-OneVision (arXiv 2408.03326): SigLIP tiles of a single image at any of many resolutions, shrunk where they are too
//! many, and one tile for each of several images; the two-layer projector and a Qwen2, Llama or Mistral decoder.

use serde_json::Value;

use super::anyres::{AnyResConfig, canvases};
use super::fields::word;
use super::llava::{self, ProjectedVit};
use super::llava_names;
use super::registry::{Family, FamilyConfig};
use super::vit::VitConfig;
use super::vlm::VlmConfig;

mod processor;

/// The family's registry entry.
pub(super) static FAMILY: Family = llava_names::vit_family(
    "llava_onevision",
    "LlavaOnevisionForConditionalGeneration",
    parse,
    processor::parse,
);

/// (height, width) of the canvases that neither file names: one to six tiles of 384 pixels each way.
fn default_canvases() -> Vec<[u32; 2]> {
    (1..=6).flat_map(|rows| (1..=6).map(move |columns| [rows * 384, columns * 384])).collect()
}

/// The most tiles' worth of tokens, from `anyres_max_N`.
fn max_tiles(json: &Value) -> Result<usize, String> {
    let ratio = word(json, "vision_aspect_ratio", "anyres_max_9")?;
    let number = ratio.strip_prefix("anyres_max_").and_then(|number| number.parse().ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("`vision_aspect_ratio` {ratio} is not supported"))
}

/// Reads config.json. Defaults are those of transformers 5.23's `LlavaOnevisionConfig`.
fn parse(json: &Value) -> Result<Box<dyn FamilyConfig>, String> {
    let so400m = VitConfig {
        width: 1152,
        mlp_width: 4304,
        num_layers: 26,
        num_heads: 16,
        image_size: 384,
        patch_size: 14,
        ..VitConfig::siglip()
    };
    let vision = VitConfig::parse(&json["vision_config"], "siglip_vision_model", so400m)?;
    let projected = ProjectedVit::parse(json, vision.selected(json, -1, "full")?)?;
    let tower = AnyResConfig::new(projected, canvases(json, &default_canvases())?, Some(max_tiles(json)?))?;
    let text = llava::tied_or_not(json, "qwen2")?;
    let image_token_id = llava::image_token_id(json, 151_646)?;
    Ok(Box::new(VlmConfig::new(text, llava_names::TEXT_PREFIX, tower, image_token_id)))
}
