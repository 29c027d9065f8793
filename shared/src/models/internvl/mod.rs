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
pub(super) static FAMILY: Family = Family {
    model_type: "internvl",
    architecture: "InternVLForConditionalGeneration",
    vision_type: None,
    renames: llava_names::RENAMES,
    infixes: &[],
    parts: llava_names::PARTS,
    ignored: llava_names::IGNORED,
    embedding: llava_names::EMBEDDING,
    head: llava_names::HEAD,
    parse: config::parse,
    processor: processor::parse,
};
