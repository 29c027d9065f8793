//! InternVL2, 2.5 and 3 in their original layout (`internvl_chat`): the same model as [`internvl`](super::internvl) under
//! other names, with fused projections, and an InternLM2, Qwen2, Qwen3 or Llama decoder.

use super::llava_names;
use super::registry::Family;

mod config;
mod processor;

/// The family's registry entry.
pub(super) static FAMILY: Family = Family {
    renames: &[
        ("vision_model.embeddings.class_embedding", "vision_tower.embeddings.cls_token"),
        ("vision_model.embeddings.position_embedding", "vision_tower.embeddings.position_embeddings"),
        ("vision_model.embeddings.patch_embedding.", "vision_tower.embeddings.patch_embeddings.projection."),
        ("vision_model.encoder.layers.", "vision_tower.encoder.layer."),
        ("mlp1.0.", "multi_modal_projector.layer_norm."),
        ("mlp1.1.", "multi_modal_projector.linear_1."),
        ("mlp1.3.", "multi_modal_projector.linear_2."),
        ("language_model.model.tok_embeddings.", "language_model.model.embed_tokens."),
        ("language_model.output.", "language_model.lm_head."),
    ],
    infixes: &[
        // The vision encoder's.
        (".attn.proj.", ".attention.projection_layer."),
        (".attn.", ".attention."),
        (".ls1", ".lambda_1"),
        (".ls2", ".lambda_2"),
        (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."),
        // InternLM2's.
        (".attention.wqkv.", ".self_attn.qkv_proj."),
        (".attention.wo.", ".self_attn.o_proj."),
        (".feed_forward.w1.", ".mlp.gate_proj."),
        (".feed_forward.w3.", ".mlp.up_proj."),
        (".feed_forward.w2.", ".mlp.down_proj."),
        (".attention_norm.", ".input_layernorm."),
        (".ffn_norm.", ".post_attention_layernorm."),
    ],
    ..llava_names::family("internvl_chat", "InternVLChatModel", config::parse, processor::parse)
};
