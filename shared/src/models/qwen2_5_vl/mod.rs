//! Qwen2.5-VL (arXiv 2502.13923): Qwen2-VL with a vision encoder of RMS norms and gated feed-forwards, most of whose
//! blocks attend within windows.

use super::qwen_vl;
use super::registry::Family;

mod config;
mod vision;
mod window;

/// The family's registry entry.
pub(super) static FAMILY: Family =
    qwen_vl::family("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", config::parse);
