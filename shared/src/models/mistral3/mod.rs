//! Mistral3 (Mistral Small 3.1 and later): Pixtral with a projector that merges 2 x 2 patches.

use super::registry::Family;
use super::{llava_names, pixtral};

mod config;
mod merger;

/// The family's registry entry.
pub(super) static FAMILY: Family = Family {
    model_type: "mistral3",
    architecture: "Mistral3ForConditionalGeneration",
    vision_type: Some("pixtral"),
    renames: llava_names::RENAMES,
    infixes: &[],
    parts: llava_names::PARTS,
    ignored: llava_names::IGNORED,
    embedding: llava_names::EMBEDDING,
    head: llava_names::HEAD,
    parse: config::parse,
    processor: pixtral::parse_processor,
};
