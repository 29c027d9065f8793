//! Qwen3-VL (arXiv 2511.21631): interleaved M-RoPE, norms on queries and keys, learned positions resampled to each
//! image, and DeepStack: features of several vision blocks are added to the image rows of the first decoder blocks.

use super::qwen_vl;
use super::registry::Family;

mod config;
mod position_table;
mod vision;

/// The family's registry entry.
pub(super) static FAMILY: Family = Family {
    model_type: "qwen3_vl",
    architecture: "Qwen3VLForConditionalGeneration",
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
