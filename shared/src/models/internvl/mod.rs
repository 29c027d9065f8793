//! InternVL (arXiv 2504.10479) in the transformers-native layout: a ViT over tiles, pixel shuffle, a two-layer
//! projector, and a Qwen2 or Llama decoder.

use super::params::ModelPart;
use super::registry::Family;

mod config;
mod processor;
mod projector;
mod vision;

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

/// The family's registry entry.
pub(super) static FAMILY: Family = Family {
    model_type: "internvl",
    architecture: "InternVLForConditionalGeneration",
    renames: &[
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ],
    parts: PARTS,
    ignored: IGNORED,
    embedding: EMBEDDING,
    head: HEAD,
    parse: config::parse,
    processor: processor::parse,
};
