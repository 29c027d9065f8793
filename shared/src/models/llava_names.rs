//! Names of weights as LLaVA began them and many families keep them: `vision_tower`, `multi_modal_projector`,
//! `language_model`.

use super::params::ModelPart;
use super::registry::{Family, ParseConfig, ParseProcessor};

/// transformers' own naming to that of the hub's files.
pub(super) const RENAMES: &[(&str, &str)] = &[
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
];
/// The same where the vision tower is CLIP's or SigLIP's, whose own level of names transformers 5 leaves out.
pub(super) const VIT_RENAMES: &[(&str, &str)] = &[
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("vision_tower.vision_model.", "vision_tower.vision_model."),
    ("vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
];
/// The parts by canonical name.
pub(super) const PARTS: &[(&str, ModelPart)] = &[
    ("vision_tower.", ModelPart::Vision),
    ("multi_modal_projector.", ModelPart::Projector),
    ("image_newline", ModelPart::Projector),
    ("language_model.lm_head.", ModelPart::Head),
];
/// Buffers, and SigLIP's head over whole images, which these models do not ask.
const VIT_IGNORED: &[&str] = &[
    "rotary_emb.inv_freq",
    "embeddings.position_ids",
    "vision_model.head.probe",
    "vision_model.head.attention.in_proj_weight",
    "vision_model.head.attention.in_proj_bias",
    "vision_model.head.attention.out_proj.weight",
    "vision_model.head.attention.out_proj.bias",
    "vision_model.head.layernorm.weight",
    "vision_model.head.layernorm.bias",
    "vision_model.head.mlp.fc1.weight",
    "vision_model.head.mlp.fc1.bias",
    "vision_model.head.mlp.fc2.weight",
    "vision_model.head.mlp.fc2.bias",
];
/// Where the decoder's weights lie.
pub(super) const TEXT_PREFIX: &str = "language_model.model";
/// Where the weights of a CLIP or SigLIP tower lie.
pub(super) const VIT_PREFIX: &str = "vision_tower.vision_model";
/// Where the projector's weights lie.
pub(super) const PROJECTOR_PREFIX: &str = "multi_modal_projector";

/// The registry entry of a family that keeps these names.
pub(super) const fn family(
    model_type: &'static str,
    architecture: &'static str,
    parse: ParseConfig,
    processor: ParseProcessor,
) -> Family {
    Family {
        renames: RENAMES,
        parts: PARTS,
        ignored: &["rotary_emb.inv_freq", "embeddings.position_ids"],
        embedding: "language_model.model.embed_tokens.weight",
        head: "language_model.lm_head.weight",
        ..Family::text(model_type, architecture, parse, processor)
    }
}

/// The same with a CLIP or SigLIP tower.
pub(super) const fn vit_family(
    model_type: &'static str,
    architecture: &'static str,
    parse: ParseConfig,
    processor: ParseProcessor,
) -> Family {
    Family {
        renames: VIT_RENAMES,
        ignored: VIT_IGNORED,
        ..family(model_type, architecture, parse, processor)
    }
}
