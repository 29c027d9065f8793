//! Names of weights as LLaVA began them and many families keep them: `vision_tower`, `multi_modal_projector`,
//! `language_model`.

use super::params::ModelPart;

/// transformers' own naming to that of the hub's files.
pub(super) const RENAMES: &[(&str, &str)] = &[
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
];
/// The parts by canonical name.
pub(super) const PARTS: &[(&str, ModelPart)] = &[
    ("vision_tower.", ModelPart::Vision),
    ("multi_modal_projector.", ModelPart::Projector),
    ("language_model.lm_head.", ModelPart::Head),
];
/// Buffers that some checkpoints store.
pub(super) const IGNORED: &[&str] = &["rotary_emb.inv_freq", "embeddings.position_ids"];
/// The canonical name of the input embedding.
pub(super) const EMBEDDING: &str = "language_model.model.embed_tokens.weight";
/// The canonical name of the head.
pub(super) const HEAD: &str = "language_model.lm_head.weight";
/// Where the decoder's weights lie.
pub(super) const TEXT_PREFIX: &str = "language_model.model";
