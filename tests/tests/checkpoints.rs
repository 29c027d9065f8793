//! How checkpoints are read and written back: every naming, sharded or not, sparse or not; and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use e2e::damage::{copy_of, edit_config, edit_weights};
use e2e::frozen::{features, frozen, options};
use e2e::parity::TOLERANCE;
use e2e::reference::{CHECKPOINTS, samples, worst_error};
use e2e::rows::fixture;
use shared::models::{
    Encoded, LoadOptions, PackedBatch, Replacement, TrainableParts, config_of, expected_weights,
    export_checkout, identity, load, weights_digest,
};

/// The message of the error that loading ends in, which must carry a hint.
fn refusal(dir: &Path) -> String {
    let message = load(dir, &options(DType::F32)).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("hint: "), "{message}");
    message
}

#[test]
fn every_naming_is_read() {
    // (a prefix as stored, the prefix to store instead): the namings of transformers' keys.json listings.
    let hub_to_native = [
        ("model.", "model.language_model."),
        ("visual.", "model.visual."),
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ];
    let copy = copy_of("models/qwen2_vl");
    let digest = weights_digest(copy.path()).unwrap();
    edit_weights(copy.path(), |tensors| {
        for (name, tensor) in std::mem::take(tensors) {
            let (from, to) = hub_to_native.iter().find(|(from, _)| name.starts_with(from)).unwrap();
            tensors.insert(name.replacen(from, to, 1), tensor);
        }
    });
    assert!(
        fs::read(copy.path().join("model.safetensors")).unwrap().windows(13).any(|w| w == b"model.visual.")
    );
    assert_eq!(weights_digest(copy.path()).unwrap(), digest);
    let stored = samples(&fixture("models/qwen2_vl")).unwrap();
    let model = frozen(copy.path());
    let inputs = stored[0].stored_inputs(&model).unwrap();
    assert!(worst_error(&features(&model, &inputs), stored[0].features().unwrap()).unwrap() < TOLERANCE);
}

/// All weights of a checkpoint, by stored name.
fn weights_of(dir: &Path) -> std::collections::HashMap<String, Tensor> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    files.flat_map(|path| candle_core::safetensors::load(&path, &Device::Cpu).unwrap()).collect()
}

/// The original layout keeps Qwen2's names and fuses the vision encoder's projections; `internvl_chat` beside this one
/// is InternLM2, whose names and projections differ as well (tests/fixtures/internvl_original.py).
#[test]
fn an_original_internvl_of_a_qwen2_is_the_same_model() {
    let source = fixture("models/internvl");
    let mut tensors = weights_of(&source);
    for layer in 0..2 {
        for kind in ["weight", "bias"] {
            let name = |part: &str| format!("vision_tower.encoder.layer.{layer}.attention.{part}.{kind}");
            let parts = ["q_proj", "k_proj", "v_proj"].map(|part| tensors.remove(&name(part)).unwrap());
            let fused = Tensor::cat(&parts, 0).unwrap();
            tensors.insert(format!("vision_model.encoder.layers.{layer}.attn.qkv.{kind}"), fused);
        }
    }
    let renames = [
        ("vision_tower.encoder.layer.", "vision_model.encoder.layers."),
        ("vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
        ("vision_tower.embeddings.position_embeddings", "vision_model.embeddings.position_embedding"),
        ("vision_tower.embeddings.patch_embeddings.projection", "vision_model.embeddings.patch_embedding"),
        (".attention.projection_layer", ".attn.proj"),
        (".lambda_", ".ls"),
        (".layernorm_before", ".norm1"),
        (".layernorm_after", ".norm2"),
        ("multi_modal_projector.layer_norm", "mlp1.0"),
        ("multi_modal_projector.linear_1", "mlp1.1"),
        ("multi_modal_projector.linear_2", "mlp1.3"),
    ];
    let renamed = |name: String| renames.iter().fold(name, |name, (from, to)| name.replace(from, to));
    let tensors = tensors.into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect();
    let copy = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(&tensors, copy.path().join("model.safetensors")).unwrap();
    let config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(source.join("config.json")).unwrap()).unwrap();
    let original = serde_json::json!({
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "llm_config": config["text_config"],
        "vision_config": {
            "hidden_size": 24,
            "image_size": 16,
            "intermediate_size": 36,
            "norm_type": "layer_norm",
            "num_attention_heads": 3,
            "num_hidden_layers": 2,
            "patch_size": 4,
            "qk_normalization": false,
            "qkv_bias": true,
        },
    });
    fs::write(copy.path().join("config.json"), original.to_string()).unwrap();
    let (model, reference) = (frozen(copy.path()), frozen(&source));
    for sample in samples(&source).unwrap() {
        let inputs = sample.stored_inputs(&reference).unwrap();
        assert!(worst_error(&features(&model, &inputs), sample.features().unwrap()).unwrap() < TOLERANCE);
    }
}

#[test]
fn sharding_is_not_identity_but_weights_are() {
    let sharded = fixture("models/internvl");
    let single = tempfile::tempdir().unwrap();
    fs::copy(sharded.join("config.json"), single.path().join("config.json")).unwrap();
    let tensors = weights_of(&sharded);
    candle_core::safetensors::save(&tensors, single.path().join("model.safetensors")).unwrap();
    assert_eq!(identity(single.path()).unwrap(), identity(&sharded).unwrap());
    edit_weights(single.path(), |tensors| {
        let norm = tensors.get_mut("language_model.model.norm.weight").unwrap();
        *norm = (&*norm * 1.5).unwrap();
    });
    assert_ne!(weights_digest(single.path()).unwrap(), weights_digest(&sharded).unwrap());
}

#[test]
fn sparse_and_full_configurations_mean_the_same() {
    // transformers has no class for internvl_chat that could write it back.
    for name in CHECKPOINTS.iter().filter(|name| !name.starts_with("internvl_chat")) {
        let sparse = config_of(&fixture(name)).unwrap();
        // As transformers wrote it back: every class default spelled out.
        let full = config_of(&fixture(name).join("v5")).unwrap();
        assert_eq!(sparse.config.canonical(), full.config.canonical(), "{name}");
        assert_eq!(sparse.config.max_positions(), full.config.max_positions(), "{name}");
        assert_eq!(expected_weights(&sparse).unwrap(), expected_weights(&full).unwrap(), "{name}");
    }
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let copy = copy_of("models/qwen2_vl");
    edit_weights(copy.path(), |tensors| {
        tensors.remove("model.layers.1.mlp.up_proj.weight").unwrap();
        tensors.insert("model.layers.7.surprise".into(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
        let norm = tensors.get_mut("model.norm.weight").unwrap();
        *norm = norm.narrow(0, 0, 5).unwrap();
    });
    let message = refusal(copy.path());
    for part in
        ["missing weights: `model.layers.1.mlp.up_proj.weight`", "unknown weights: `model.layers.7.surprise`"]
    {
        assert!(message.contains(part), "{message}");
    }
    assert!(message.contains("`model.norm.weight` has shape [5], config.json asks for [32]"), "{message}");
}

#[test]
fn a_tied_head_may_be_stored_and_an_other_head_unties() {
    let copy = copy_of("models/qwen2_vl");
    edit_weights(copy.path(), |tensors| {
        tensors.insert("lm_head.weight".into(), tensors["model.embed_tokens.weight"].clone());
    });
    assert!(frozen(copy.path()).head.tied);
    edit_weights(copy.path(), |tensors| {
        let other = (&tensors["model.embed_tokens.weight"] * 2.0).unwrap();
        tensors.insert("lm_head.weight".into(), other);
    });
    assert!(!frozen(copy.path()).head.tied);
}

#[test]
fn broken_checkpoints_are_refused_with_a_hint() {
    let empty = tempfile::tempdir().unwrap();
    assert!(refusal(empty.path()).contains("config.json"));

    let copy = copy_of("models/qwen2_vl");
    edit_config(copy.path(), |json| {
        json["model_type"] = "qwen9_vl".into();
        json["architectures"] = serde_json::json!(["Qwen9VLForConditionalGeneration"]);
    });
    let message = refusal(copy.path());
    assert!(message.contains("`Qwen9VLForConditionalGeneration` is not supported"), "{message}");
    assert!(message.contains("InternVLForConditionalGeneration"), "{message}");
    // A name that families share is told with what tells them apart.
    assert!(message.contains("LlavaForConditionalGeneration (vision `pixtral`)"), "{message}");

    let copy = copy_of("models/internvl_llama");
    edit_config(copy.path(), |json| json["text_config"]["model_type"] = "mamba".into());
    assert!(refusal(copy.path()).contains("`mamba`"));

    let copy = copy_of("models/internvl");
    let shard = copy.path().join("model-00001-of-00002.safetensors");
    fs::write(&shard, &fs::read(&shard).unwrap()[..100]).unwrap();
    assert!(refusal(copy.path()).contains("model-00001-of-00002.safetensors"));
    fs::remove_file(&shard).unwrap();
    assert!(refusal(copy.path()).contains("the index names this file"));
}

#[test]
fn variants_that_are_not_implemented_are_named() {
    let cases = [
        (
            "gemma3",
            "/text_config/attn_logit_softcapping",
            serde_json::json!(50.0),
            "`attn_logit_softcapping`",
        ),
        ("gemma3", "/mm_tokens_per_image", serde_json::json!(5), "`mm_tokens_per_image` 5"),
        ("gemma3", "/text_config/hidden_activation", serde_json::json!("gelu"), "activation `gelu`"),
        (
            "gemma3",
            "/text_config/layer_types",
            serde_json::json!(["full_attention", "full_attention", "chunked_attention"]),
            "`chunked_attention`",
        ),
        ("paligemma", "/text_config/model_type", serde_json::json!("gemma2"), "`gemma2`"),
        ("llava", "/vision_config/model_type", serde_json::json!("dinov2"), "`dinov2`"),
        ("llava", "/vision_feature_layer", serde_json::json!([-2, -3]), "one layer is"),
        ("llava", "/vision_feature_layer", serde_json::json!(-9), "`vision_feature_layer` -9"),
        ("llava_next", "/image_grid_pinpoints", serde_json::json!([[16, 17]]), "16 x 17"),
        (
            "llava_next",
            "/vision_feature_select_strategy",
            serde_json::json!("full"),
            "one row for each patch",
        ),
        ("llava_onevision", "/vision_aspect_ratio", serde_json::json!("pad"), "`vision_aspect_ratio` pad"),
        ("idefics3", "/scale_factor", serde_json::json!(3), "`scale_factor` 3"),
    ];
    for (name, pointer, value, expected) in cases {
        let copy = copy_of(name);
        edit_config(copy.path(), |json| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            json.pointer_mut(parent).unwrap()[key] = value;
        });
        let message = refusal(copy.path());
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn quantised_weights_are_named_before_anything_is_read() {
    // As the hub's checkouts have it: AWQ, GPTQ, bitsandbytes and FP8 beside the sizes, compressed tensors in the decoder's part.
    for (name, part, value, method) in [
        ("qwen2_5_vl", "", serde_json::json!({"quant_method": "awq", "bits": 4, "group_size": 128}), "`awq`"),
        ("qwen2_vl", "", serde_json::json!({"quant_method": "gptq", "bits": 4, "desc_act": false}), "`gptq`"),
        (
            "llava",
            "",
            serde_json::json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            "`bitsandbytes`",
        ),
        ("qwen3_vl", "", serde_json::json!({"quant_method": "fp8", "fmt": "e4m3"}), "`fp8`"),
        (
            "mistral3",
            "text_config",
            serde_json::json!({"quant_method": "compressed-tensors"}),
            "`compressed-tensors`",
        ),
    ] {
        let copy = copy_of(name);
        edit_config(copy.path(), |json| match part {
            "" => json["quantization_config"] = value,
            part => json[part]["quantization_config"] = value,
        });
        // The weights are not even looked at.
        fs::remove_file(copy.path().join("model.safetensors")).unwrap();
        let message = refusal(copy.path());
        assert!(message.contains("`quantization_config`") && message.contains(method), "{name}: {message}");
        assert!(message.contains("hint:") && message.contains("--gguf"), "{message}");
    }
}

#[test]
fn fields_that_transformers_does_not_read_mean_nothing() {
    // transformers 5.23: Gemma3TextConfig takes `sliding_window_pattern`, 6 where it is absent, and overwrites the other.
    let copy = copy_of("gemma3");
    let canonical = |edit: fn(&mut serde_json::Value)| {
        edit_config(copy.path(), |json| edit(&mut json["text_config"]));
        config_of(copy.path()).unwrap().config.canonical()
    };
    let absent = canonical(|text| drop(text.as_object_mut().unwrap().remove("sliding_window_pattern")));
    assert_eq!(canonical(|text| text["_sliding_window_pattern"] = 2.into()), absent);
    // GemmaMLP reads `hidden_act`, Gemma3MLP `hidden_activation`.
    assert_eq!(canonical(|text| text["hidden_act"] = "gelu".into()), absent);
}

#[test]
fn windows_are_where_transformers_has_them() {
    // transformers 5.24: `Qwen3Config(num_hidden_layers=2, ...).layer_types` and `.sliding_window`.
    let copy = copy_of("qwen3_text");
    edit_config(copy.path(), |json| json["max_window_layers"] = 1.into());
    let plain = config_of(copy.path()).unwrap().config;
    assert!(plain.canonical()["pattern"].is_null(), "switched off where nothing is said");
    edit_config(copy.path(), |json| json["use_sliding_window"] = true.into());
    let pattern = || config_of(copy.path()).unwrap().config.canonical()["pattern"].clone();
    let windows = |is_local: [bool; 2], window: usize| serde_json::json!({ "windows": { "is_local": is_local, "window": window } });
    assert_eq!(pattern(), windows([false, true], 4096));
    edit_config(copy.path(), |json| json["sliding_window"] = 8.into());
    let types = serde_json::json!(["sliding_attention", "full_attention"]);
    edit_config(copy.path(), |json| json["layer_types"] = types);
    assert_eq!(pattern(), windows([true, false], 8));
    let windowed = config_of(copy.path()).unwrap().config;
    assert_eq!(windowed.max_positions(), plain.max_positions(), "a sample may be longer than a window");

    edit_config(copy.path(), |json| json["use_sliding_window"] = false.into());
    assert!(refusal(copy.path()).contains("without a window"), "transformers finds no window either");
    edit_config(copy.path(), |json| json["layer_types"] = serde_json::json!(["full_attention"]));
    assert!(refusal(copy.path()).contains("1 `layer_types` of 2 layers"));
    // MistralConfig: 4096 where config.json does not say null.
    let copy = copy_of("mistral_text");
    edit_config(copy.path(), |json| drop(json.as_object_mut().unwrap().remove("sliding_window")));
    assert_eq!(config_of(copy.path()).unwrap().config.canonical()["pattern"], windows([true, true], 4096));
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let model = frozen(&fixture("models/internvl"));
    let stored = samples(&fixture("models/internvl")).unwrap();
    let image = stored.iter().find(|sample| sample.name == "image").unwrap();
    let inputs = image.stored_inputs(&model).unwrap();
    let refused =
        |wrong: Encoded| model.body.features(&PackedBatch::pack(&[&wrong])).unwrap_err().to_string();

    let mut larger = inputs.clone();
    larger.images[0].shape = vec![1, 3, 16, 20];
    assert!(refused(larger).contains("an image of shape [1, 3, 16, 20] is not made of tiles"));
    let mut without = inputs.clone();
    without.images.clear();
    assert!(refused(without).contains("0 rows of image features for 4 image tokens"));
    // make.py: max_position_embeddings is 64, and dynamic scaling starts there.
    let mut long = inputs;
    long.positions.last_mut().unwrap()[0] = 64;
    assert!(refused(long).contains("up to 64"));
}

#[test]
fn an_export_is_the_checkpoint_with_the_new_weights() {
    for name in CHECKPOINTS {
        let out = tempfile::tempdir().unwrap();
        let same = out.path().join("same");
        export_checkout(&fixture(name), &same, &BTreeMap::new(), None).unwrap();
        assert_eq!(identity(&same).unwrap(), identity(&fixture(name)).unwrap(), "{name}");

        let all = LoadOptions { trainable: TrainableParts::all(), ..options(DType::F32) };
        let model = load(&fixture(name), &all).unwrap();
        assert!(model.params.len() >= 20);
        let doubled: BTreeMap<String, Tensor> = model
            .params
            .iter()
            .map(|(key, param)| (key.to_owned(), (param.var.as_tensor() * 2.0).unwrap()))
            .collect();
        let trained = out.path().join("trained");
        let replaced =
            doubled.iter().map(|(key, tensor)| (key.clone(), Replacement::Weight(tensor.clone()))).collect();
        export_checkout(&fixture(name), &trained, &replaced, Some(DType::F32)).unwrap();
        let again = load(&trained, &all).unwrap();
        assert_eq!(again.params.len(), doubled.len());
        for (key, param) in again.params.iter() {
            assert_eq!(worst_error(param.var.as_tensor(), &doubled[key]).unwrap(), 0.0, "{name}: {key}");
        }
        let text = fs::read_to_string(trained.join("config.json")).unwrap();
        assert!(!text.contains("bfloat16"), "{text}");
        let refused = export_checkout(&fixture(name), &trained, &replaced, None).unwrap_err().to_string();
        assert!(refused.contains("already exists"), "{refused}");
    }
}

#[test]
fn an_export_does_not_tie_a_head_that_differs() {
    // transformers 5.23 loads such a checkpoint with a warning that asks for `tie_word_embeddings=False`. Gemma's configuration
    // says nothing, which means true.
    for name in ["models/qwen2_vl", "gemma3"] {
        let copy = copy_of(name);
        edit_weights(copy.path(), |tensors| {
            let embedding = tensors.iter().find(|(name, _)| name.ends_with("embed_tokens.weight")).unwrap();
            let other = (embedding.1 * 2.0).unwrap();
            tensors.insert("lm_head.weight".into(), other);
        });
        let out = copy.path().join("out");
        export_checkout(copy.path(), &out, &BTreeMap::new(), None).unwrap();
        let config = config_of(&out).unwrap();
        assert_eq!(config.json["tie_word_embeddings"], false, "{name}");
        assert!(!config.config.decoder().tie_word_embeddings && !frozen(&out).head.tied, "{name}");
    }
}

#[test]
fn an_export_keeps_what_no_model_needs() {
    let cases = [
        ("llava", "vision_tower.vision_model.embeddings.position_ids", DType::I64),
        ("gemma3", "vision_tower.vision_model.head.probe", DType::F32),
        ("paligemma", "vision_tower.vision_model.head.mlp.fc2.bias", DType::F32),
    ];
    for (name, weight, dtype) in cases {
        let copy = copy_of(name);
        let numbers = Tensor::arange(0i64, 17, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        edit_weights(copy.path(), |tensors| drop(tensors.insert(weight.into(), numbers.clone())));
        let out = copy.path().join("out");
        export_checkout(copy.path(), &out, &BTreeMap::new(), Some(DType::BF16)).unwrap();
        assert!(load(&out, &options(DType::F32)).is_ok(), "{name}");
        let kept = &weights_of(&out)[weight];
        // Numbers that are no weights are not rounded to the type that was asked for.
        assert_eq!(kept.dtype(), if dtype == DType::I64 { DType::I64 } else { DType::BF16 }, "{name}");
        let numbers = numbers.to_dtype(DType::F32).unwrap();
        assert_eq!(worst_error(kept, &numbers).unwrap(), 0.0, "{name}");
    }
}
