//! The toy student's family: InternVL in the layout that transformers loads natively (`-hf`).

use anyhow::Result;
use serde_json::json;

use super::{
    IMAGE_MEAN, IMAGE_STD, PATCH, Parameters, Start, chat_template, decoder_fields, generation_config,
    joined, pretty, residual_gain, tokenizer_config,
};
use crate::manifest::{Family, Model};
use crate::tokenizers::special_id;
use crate::world::{BOARD, PICTURE_PIXELS};

/// Image tokens of a picture: one a cell.
const IMAGE_TOKENS: usize = BOARD as usize * BOARD as usize;
/// Patches on each side of a picture.
const PATCHES: usize = PICTURE_PIXELS as usize / PATCH;

/// The files beside the weights and the tokenizer.
pub(super) fn files(model: &Model) -> Result<Vec<(&'static str, String)>> {
    let markers = json!({
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    });
    let more = json!({
        "unk_token": "<unk>",
        "processor_class": "InternVLProcessor",
        "extra_special_tokens": markers,
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    });
    Ok(vec![
        ("config.json", config(model)?),
        ("generation_config.json", generation_config(Family::Internvl)?),
        ("preprocessor_config.json", preprocessor_config()?),
        ("processor_config.json", processor_config()?),
        ("tokenizer_config.json", tokenizer_config(model, more)?),
        ("chat_template.jinja", chat_template("<IMG_CONTEXT>")),
    ])
}

fn config(model: &Model) -> Result<String> {
    let id = |token| special_id(Family::Internvl, token);
    let vision = &model.vision;
    let text = json!({
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "bos_token_id": id("<|endoftext|>")?,
        "eos_token_id": id("<|im_end|>")?,
    });
    pretty(&json!({
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "torch_dtype": "float16",
        "downsample_ratio": 0.5,
        "image_seq_length": IMAGE_TOKENS,
        "image_token_id": id("<IMG_CONTEXT>")?,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": true,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "text_config": joined([text, decoder_fields(model, json!({}))]),
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "internvl_vision",
            "attention_bias": true,
            "hidden_act": "gelu",
            "hidden_size": vision.hidden_size,
            "image_size": [PICTURE_PIXELS, PICTURE_PIXELS],
            "intermediate_size": vision.mlp_ratio * vision.hidden_size,
            "layer_norm_eps": 1e-6,
            "layer_scale_init_value": 1.0,
            "norm_type": "layer_norm",
            "num_attention_heads": vision.num_heads,
            "num_channels": 3,
            "num_hidden_layers": vision.num_layers,
            "patch_size": [PATCH, PATCH],
            "use_absolute_position_embeddings": true,
            "use_mask_token": false,
            "use_mean_pooling": true,
            "use_qk_norm": false,
        },
    }))
}

/// One tile and no thumbnail: a picture is small.
fn preprocessor_config() -> Result<String> {
    pretty(&json!({
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "crop_to_patches": false,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "max_patches": 1,
        "min_patches": 1,
        "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "size": {"height": PICTURE_PIXELS, "width": PICTURE_PIXELS},
    }))
}

fn processor_config() -> Result<String> {
    pretty(&json!({"processor_class": "InternVLProcessor", "image_seq_length": IMAGE_TOKENS}))
}

pub(super) fn parameters(model: &Model) -> Parameters {
    let mut all = Parameters::default();
    let (width, ffn) = (model.vision.hidden_size, model.vision.mlp_ratio * model.vision.hidden_size);
    let residual = residual_gain(model.vision.num_layers);
    let embeddings = "vision_tower.embeddings";
    all.push(format!("{embeddings}.cls_token"), &[1, 1, width], Start::Spread(0.02));
    all.linear(&format!("{embeddings}.patch_embeddings.projection"), &[width, 3, PATCH, PATCH], 1.0);
    all.push(
        format!("{embeddings}.position_embeddings"),
        &[1, PATCHES * PATCHES + 1, width],
        Start::Spread(0.2),
    );
    for i in 0..model.vision.num_layers {
        let layer = format!("vision_tower.encoder.layer.{i}");
        all.norm(&format!("{layer}.layernorm_before"), width);
        for part in ["q_proj", "k_proj", "v_proj"] {
            all.linear(&format!("{layer}.attention.{part}"), &[width, width], 1.0);
        }
        all.linear(&format!("{layer}.attention.projection_layer"), &[width, width], residual);
        all.push(format!("{layer}.lambda_1"), &[width], Start::Ones);
        all.norm(&format!("{layer}.layernorm_after"), width);
        all.linear(&format!("{layer}.mlp.fc1"), &[ffn, width], 1.0);
        all.linear(&format!("{layer}.mlp.fc2"), &[width, ffn], residual);
        all.push(format!("{layer}.lambda_2"), &[width], Start::Ones);
    }
    let (projector, text_width) = ("multi_modal_projector", model.text.hidden_size);
    all.norm(&format!("{projector}.layer_norm"), 4 * width);
    all.linear(&format!("{projector}.linear_1"), &[text_width, 4 * width], 1.0);
    all.linear(&format!("{projector}.linear_2"), &[text_width, text_width], 1.0);
    all.decoder("language_model.model", &model.text, model.vocab_size);
    all
}
