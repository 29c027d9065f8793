//! Pixtral (arXiv 2410.07073): a vision encoder for any resolution with a 2-D rotary embedding, LLaVA's two-layer
//! projector, and a Mistral decoder. Its config.json calls itself LLaVA; the vision encoder's type tells them apart.

use super::llava_names;
use super::registry::Family;

mod config;
mod processor;
mod projector;
mod vision;

pub(super) use config::{VisionConfig, text};
pub(super) use processor::parse as parse_processor;
pub(super) use projector::Projector;
pub(super) use vision::VisionModel;

/// The family's registry entry.
pub(super) static FAMILY: Family = Family {
    vision_type: Some("pixtral"),
    ..llava_names::family("llava", "LlavaForConditionalGeneration", config::parse, processor::parse)
};
