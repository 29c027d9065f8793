//! Gemma 3 (arXiv 2503.19786): SigLIP over one square tile, its patches averaged to few, and a decoder whose local blocks
//! see a window, rotated by a base of their own, while the tokens of an image see each other.

use candle_core::{DType, Result, Tensor};
use serde::Serialize;
use serde_json::Value;

use super::blocks::Blocks;
use super::fields::{Parsed, count, flag, number, only, word};
use super::layers::{EncoderLayer, Linear, RmsNorm, pixel_shuffle};
use super::llava;
use super::llava_names::{self, PROJECTOR_PREFIX, VIT_PREFIX};
use super::pattern::{LocalBlocks, Pattern};
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
    llava_names::vit_family("gemma3", "Gemma3ForConditionalGeneration", parse, processor::parse);

/// Vision encoder and projector.
#[derive(Clone, Debug, Serialize)]
struct PooledConfig {
    vision: VitConfig,
    /// How many patches a side are averaged to one.
    pool: usize,
}

/// Reads config.json. Defaults are those of transformers 5.23's `Gemma3Config` and `Gemma3TextConfig`.
fn parse(json: &Value) -> Parsed<Box<dyn FamilyConfig>> {
    let vision = VitConfig::read(&json["vision_config"], VitConfig::siglip())?;
    let (side, tokens) = (vision.tile().patches_per_side(), count(json, "mm_tokens_per_image", 256)?);
    let pool = side / tokens.isqrt().max(1);
    only(
        pool > 0 && (side / pool).pow(2) == tokens && side.is_multiple_of(pool),
        format!("`mm_tokens_per_image` {tokens} of {side} x {side} patches"),
    )?;
    let text = &json["text_config"];
    for soft_cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
        only(text[soft_cap].is_null(), format!("`{soft_cap}`"))?;
    }
    only(!flag(text, "use_bidirectional_attention", false)?, "`use_bidirectional_attention`")?;
    let tied = flag(json, "tie_word_embeddings", true)?;
    let mut config = text_config::parse(&global_rope(text), "gemma3_text", tied)?;
    config.pattern = Pattern::Images(local_blocks(text, config.decoder.num_layers)?);
    let image_token_id = llava::image_token_id(json, 262_144)?;
    let tower = PooledConfig { vision, pool };
    Ok(Box::new(VlmConfig::new(config, llava_names::TEXT_PREFIX, tower, image_token_id)))
}

/// The text configuration with the rotary parameters of its global blocks where others have theirs.
fn global_rope(text: &Value) -> Value {
    let mut text = text.clone();
    let global = &text["rope_parameters"]["full_attention"];
    if global.is_object() {
        text["rope_parameters"] = global.clone();
    }
    text
}

fn local_blocks(text: &Value, num_layers: usize) -> Parsed<LocalBlocks> {
    let pattern = count(text, "sliding_window_pattern", 6)?.max(1);
    let is_local = text_config::local_layers(text, num_layers, |layer| !(layer + 1).is_multiple_of(pattern))?;
    let window = count(text, "sliding_window", 4096)?;
    only(window > 0, "`sliding_window` 0")?;
    let local = &text["rope_parameters"]["sliding_attention"];
    only(word(local, "rope_type", "default")? == "default", "rotary scaling of local blocks")?;
    let rope_theta = number(local, "rope_theta", number(text, "rope_local_base_freq", 10_000.0)?)?;
    Ok(LocalBlocks { is_local, window, rope_theta: Some(rope_theta) })
}

struct PooledTower {
    vit: Vit,
    pool: usize,
    norm: RmsNorm,
    projection: Linear,
}

impl TowerConfig for PooledConfig {
    fn build(&self, width: usize, source: &mut dyn WeightSource) -> Result<Box<dyn Tower>> {
        let from = self.vision.width;
        let norm = source.get(&format!("{PROJECTOR_PREFIX}.mm_soft_emb_norm.weight"), &[from])?;
        // Stored the other way round than a linear layer's.
        let weight = source.get(&format!("{PROJECTOR_PREFIX}.mm_input_projection_weight"), &[from, width])?;
        Ok(Box::new(PooledTower {
            vit: Vit::build(&self.vision, VIT_PREFIX, source)?,
            pool: self.pool,
            norm: RmsNorm::from_one(norm, self.vision.norm_eps),
            projection: Linear::new(weight.t()?, None),
        }))
    }

    fn num_rows(&self, image: &ImageInput) -> Parsed<usize> {
        self.vision.num_merged_rows(image, self.pool)
    }
}

impl Tower for PooledTower {
    fn embed(&self, images: &[ImageInput], dtype: DType) -> Result<Patches> {
        self.vit.embed(images, dtype)
    }

    fn blocks(&self) -> &Blocks<EncoderLayer> {
        self.vit.blocks()
    }

    fn project(&self, x: Tensor, _images: &[ImageInput]) -> Result<Tensor> {
        let x = self.vit.finish(x)?;
        let width = x.dim(2)?;
        let x = pixel_shuffle(&x, self.pool)?; // (rows, k*k*E)
        let x = x.reshape((x.dim(0)?, self.pool * self.pool, width))?.mean(1)?;
        self.projection.forward(&self.norm.forward(&x)?)
    }
}
