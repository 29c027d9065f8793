//! Qwen3-VL (arXiv 2511.21631): interleaved M-RoPE, norms on queries and keys, learned positions resampled to each
//! image, and DeepStack: features of several vision blocks are added to the image rows of the first decoder blocks.

use super::qwen_vl;
use super::registry::Family;

mod config;
mod position_table;
mod vision;

/// The family's registry entry.
pub(super) static FAMILY: Family =
    qwen_vl::family("qwen3_vl", "Qwen3VLForConditionalGeneration", config::parse);
