//! What Qwen2-VL, Qwen2.5-VL and Qwen3-VL share: names, processor, M-RoPE positions, patches and the merger.

use super::params::ModelPart;
use super::registry::{Family, ParseConfig};

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

/// The registry entry of a family of these names: transformers' own, which are also those of Qwen3-VL's files, become the shorter
/// ones of Qwen2-VL's files.
pub(super) const fn family(
    model_type: &'static str,
    architecture: &'static str,
    parse: ParseConfig,
) -> Family {
    Family {
        renames: &[("model.language_model.", "model."), ("model.visual.", "visual.")],
        parts: &[
            ("visual.merger.", ModelPart::Projector),
            ("visual.deepstack_merger_list.", ModelPart::Projector),
            ("visual.", ModelPart::Vision),
            ("lm_head.", ModelPart::Head),
        ],
        ignored: &["rotary_emb.inv_freq", "rotary_pos_emb.inv_freq"],
        ..Family::text(model_type, architecture, parse, processor::parse)
    }
}

/// Where the decoder's weights lie.
pub(super) const TEXT_PREFIX: &str = "model";
/// The image token of the class defaults.
pub(super) const IMAGE_TOKEN_ID: usize = 151_655;
