//! InternVL (arXiv 2504.10479) in the transformers-native layout: a ViT over tiles, pixel shuffle, a two-layer
//! projector, and a Qwen2 or Llama decoder.

use super::llava_names;
use super::registry::Family;

mod config;
mod processor;
mod projector;
mod vision;

pub(super) use config::{TileTowerConfig, VisionConfig};
pub(super) use processor::TileProcessor;

/// The family's registry entry.
pub(super) static FAMILY: Family =
    llava_names::family("internvl", "InternVLForConditionalGeneration", config::parse, processor::parse);
