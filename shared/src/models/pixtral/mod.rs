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
    model_type: "llava",
    architecture: "LlavaForConditionalGeneration",
    vision_type: Some("pixtral"),
    renames: llava_names::RENAMES,
    infixes: &[],
    parts: llava_names::PARTS,
    ignored: llava_names::IGNORED,
    embedding: llava_names::EMBEDDING,
    head: llava_names::HEAD,
    parse: config::parse,
    processor: processor::parse,
};
