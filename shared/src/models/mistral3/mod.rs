//! Mistral3 (Mistral Small 3.1 and later): Pixtral with a projector that merges 2 x 2 patches.

use super::registry::Family;
use super::{llava_names, pixtral};

mod config;
mod merger;

/// The family's registry entry.
pub(super) static FAMILY: Family = Family {
    vision_type: Some("pixtral"),
    ..llava_names::family(
        "mistral3",
        "Mistral3ForConditionalGeneration",
        config::parse,
        pixtral::parse_processor,
    )
};
