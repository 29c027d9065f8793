//! The toy teacher's family: Qwen2-VL, with the hub's names and a configuration as sparse as the hub's.

use anyhow::Result;
use serde_json::json;

use super::{
    IMAGE_MEAN, IMAGE_STD, MAX_POSITIONS, PATCH, Parameters, ROPE_THETA, chat_template, pretty,
    residual_gain, tokenizer_config,
};
use crate::manifest::{Family, Model};
use crate::tokenizers::special_id;
use crate::world::PICTURE_PIXELS;

/// The files beside the weights and the tokenizer.
pub(super) fn files(model: &Model) -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("config.json", config(model)?),
        ("generation_config.json", generation_config()?),
        ("preprocessor_config.json", preprocessor_config()?),
        ("tokenizer_config.json", tokenizer_config(model, json!({"processor_class": "Qwen2VLProcessor"}))?),
        ("chat_template.jinja", chat_template("<|vision_start|><|image_pad|><|vision_end|>")),
    ])
}

fn config(model: &Model) -> Result<String> {
    let id = |token| special_id(Family::Qwen2Vl, token);
    let (text, vision) = (&model.text, &model.vision);
    // Of each head's frequency pairs, a quarter for time and the rest halved, as Qwen2-VL has it.
    let pairs = text.hidden_size / text.num_heads / 2;
    let sections = [pairs / 4, pairs * 3 / 8, pairs - pairs / 4 - pairs * 3 / 8];
    pretty(&json!({
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "torch_dtype": "float16",
        "bos_token_id": id("<|endoftext|>")?,
        "eos_token_id": id("<|im_end|>")?,
        "vision_start_token_id": id("<|vision_start|>")?,
        "vision_end_token_id": id("<|vision_end|>")?,
        "image_token_id": id("<|image_pad|>")?,
        "video_token_id": id("<|video_pad|>")?,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_layers,
        "num_attention_heads": text.num_heads,
        "num_key_value_heads": text.num_kv_heads,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": ROPE_THETA,
        "rope_scaling": {"type": "mrope", "mrope_section": sections},
        "use_sliding_window": false,
        "tie_word_embeddings": true,
        "vocab_size": model.vocab_size,
        "vision_config": {
            "depth": vision.num_layers,
            "embed_dim": vision.hidden_size,
            "mlp_ratio": vision.mlp_ratio,
            "num_heads": vision.num_heads,
            "in_chans": 3,
            "hidden_size": text.hidden_size,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "spatial_patch_size": PATCH,
            "temporal_patch_size": 2,
        },
    }))
}

fn generation_config() -> Result<String> {
    let id = |token| special_id(Family::Qwen2Vl, token);
    pretty(&json!({
        "eos_token_id": [id("<|im_end|>")?, id("<|endoftext|>")?],
        "pad_token_id": id("<|endoftext|>")?,
        "do_sample": false,
    }))
}

fn preprocessor_config() -> Result<String> {
    let pixels = PICTURE_PIXELS * PICTURE_PIXELS;
    pretty(&json!({
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": 56 * 56,
        // A larger picture is shrunk to the only size the toy was trained on.
        "max_pixels": pixels,
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
    }))
}

pub(super) fn parameters(model: &Model) -> Parameters {
    let mut all = Parameters::default();
    let (width, merged) = (model.vision.hidden_size, 4 * model.vision.hidden_size);
    let residual = residual_gain(model.vision.num_layers);
    all.weight("visual.patch_embed.proj.weight", &[width, 3, 2, PATCH, PATCH], 1.0);
    for i in 0..model.vision.num_layers {
        let block = format!("visual.blocks.{i}");
        all.norm(&format!("{block}.norm1"), width);
        all.linear(&format!("{block}.attn.qkv"), &[3 * width, width], 1.0);
        all.linear(&format!("{block}.attn.proj"), &[width, width], residual);
        all.norm(&format!("{block}.norm2"), width);
        let ffn = model.vision.mlp_ratio * width;
        all.linear(&format!("{block}.mlp.fc1"), &[ffn, width], 1.0);
        all.linear(&format!("{block}.mlp.fc2"), &[width, ffn], residual);
    }
    all.norm("visual.merger.ln_q", width);
    all.linear("visual.merger.mlp.0", &[merged, merged], 1.0);
    all.linear("visual.merger.mlp.2", &[model.text.hidden_size, merged], 1.0);
    all.decoder("model", &model.text, model.vocab_size);
    all
}
