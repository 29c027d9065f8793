//! What Qwen2-VL, Qwen2.5-VL and Qwen3-VL share: names, processor, M-RoPE positions, patches and the merger.

use super::params::ModelPart;

mod config;
mod encoder;
mod merger;
mod patches;
mod position;
mod processor;

pub(super) use config::{check_width, text};
pub(super) use encoder::{Encoder, EncoderConfig, Style, merger, num_heads};
pub(super) use merger::Merger;
pub(super) use patches::{PatchShape, boundaries, frame_boundaries, patch_positions};
pub(super) use processor::parse as parse_processor;

/// transformers' own naming, which is also that of Qwen3-VL's files, to the shorter one of Qwen2-VL's files.
pub(super) const RENAMES: &[(&str, &str)] =
    &[("model.language_model.", "model."), ("model.visual.", "visual.")];
/// The parts by canonical name.
pub(super) const PARTS: &[(&str, ModelPart)] = &[
    ("visual.merger.", ModelPart::Projector),
    ("visual.deepstack_merger_list.", ModelPart::Projector),
    ("visual.", ModelPart::Vision),
    ("lm_head.", ModelPart::Head),
];
/// Buffers that some checkpoints store.
pub(super) const IGNORED: &[&str] = &["rotary_emb.inv_freq", "rotary_pos_emb.inv_freq"];
/// The canonical name of the input embedding.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The canonical name of the head.
pub(super) const HEAD: &str = "lm_head.weight";
/// Where the decoder's weights lie.
pub(super) const TEXT_PREFIX: &str = "model";
/// The image token of the class defaults.
pub(super) const IMAGE_TOKEN_ID: usize = 151_655;
