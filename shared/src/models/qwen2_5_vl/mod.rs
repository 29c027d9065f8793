//! Qwen2.5-VL (arXiv 2502.13923): Qwen2-VL with a vision encoder of RMS norms and gated feed-forwards, most of whose
//! blocks attend within windows.

use super::qwen_vl;
use super::registry::Family;

mod config;
mod vision;
mod window;

/// The family's registry entry.
pub(super) static FAMILY: Family = Family {
    model_type: "qwen2_5_vl",
    architecture: "Qwen2_5_VLForConditionalGeneration",
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
