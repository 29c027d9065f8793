//! Qwen2-VL (arXiv 2409.12191): a ViT for any resolution, a 2x2 merger, and a Qwen2 decoder with M-RoPE.

use super::qwen_vl;
use super::registry::Family;

mod config;
mod vision;

/// The family's registry entry.
pub(super) static FAMILY: Family = Family {
    model_type: "qwen2_vl",
    architecture: "Qwen2VLForConditionalGeneration",
    vision_type: None,
    renames: qwen_vl::RENAMES,
    infixes: &[],
    parts: qwen_vl::PARTS,
    ignored: qwen_vl::IGNORED,
    embedding: qwen_vl::EMBEDDING,
    head: qwen_vl::HEAD,
    parse: config::parse,
    processor: qwen_vl::parse_processor,
};
