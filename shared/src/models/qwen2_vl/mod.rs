//! Qwen2-VL (arXiv 2409.12191): a ViT for any resolution, a 2x2 merger, and a Qwen2 decoder with M-RoPE.

use super::qwen_vl;
use super::registry::Family;

mod config;
mod vision;

/// The family's registry entry.
pub(super) static FAMILY: Family =
    qwen_vl::family("qwen2_vl", "Qwen2VLForConditionalGeneration", config::parse);
