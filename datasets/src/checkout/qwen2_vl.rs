//! The toy teacher's family: Qwen2-VL, with the hub's names and a configuration as sparse as the hub's.

use anyhow::Result;
use serde_json::json;

use super::{
    IMAGE_MEAN, IMAGE_STD, PATCH, Parameters, chat_template, decoder_fields, generation_config, joined,
    pretty, residual_gain, tokenizer_config,
};
use crate::manifest::{Family, Model};
use crate::tokenizers::special_id;
use crate::world::PICTURE_PIXELS;

/// The files beside the weights and the tokenizer.
pub(super) fn files(model: &Model) -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("config.json", config(model)?),
        ("generation_config.json", generation_config(Family::Qwen2Vl)?),
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
    let rope = json!({"rope_scaling": {"type": "mrope", "mrope_section": sections}});
    let ids = json!({
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "torch_dtype": "float16",
        "bos_token_id": id("<|endoftext|>")?,
        "eos_token_id": id("<|im_end|>")?,
        "vision_start_token_id": id("<|vision_start|>")?,
        "vision_end_token_id": id("<|vision_end|>")?,
        "image_token_id": id("<|image_pad|>")?,
        "video_token_id": id("<|video_pad|>")?,
    });
    let vision = json!({
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
    });
    pretty(&joined([ids, decoder_fields(model, rope), vision]))
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
