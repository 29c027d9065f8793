//! Models against transformers 5.23's own results, stored beside small checkpoints by tests/fixtures/models/make.py and,
//! with tokenizers and processors, tests/fixtures/make_small_families.py and make_vit_families.py.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use candle_core::{DType, Device, Tensor};
use e2e::damage::{copy_of, edit_config};
use e2e::frozen::{encoded, features, frozen, options};
use e2e::parity::{TOLERANCE, compare, encode};
use e2e::reference::{CHECKPOINTS, Sample, samples, worst_error};
use e2e::rows::fixture;
use shared::models::{Encoded, PackedBatch, Processor, generate_greedy, load};

/// Those that take images.
fn with_images() -> impl Iterator<Item = &'static str> {
    CHECKPOINTS.iter().copied().filter(|name| !name.ends_with("_text"))
}

#[test]
fn features_equal_transformers() {
    for name in CHECKPOINTS {
        let model = frozen(&fixture(name));
        for sample in samples(&fixture(name)).unwrap() {
            let inputs = sample.stored_inputs(&model).unwrap();
            let worst = worst_error(&features(&model, &inputs), sample.features().unwrap()).unwrap();
            assert!(worst < TOLERANCE, "{name}/{}: {worst}", sample.name);
        }
    }
}

/// From image files and text: these checkpoints have tokenizers and processors (tests/fixtures/make_families.py and
/// make_small_families.py).
#[test]
fn files_become_the_same_features_as_in_transformers() {
    for (name, num_samples, num_checkpoints, num_namings) in [
        ("qwen2_vl", 4, 2, 3),
        ("internvl", 4, 2, 3),
        ("qwen2_5_vl", 3, 1, 2),
        ("qwen3_vl", 3, 1, 2),
        ("internvl_chat", 3, 1, 1),
        ("internvl_chat_llama", 3, 1, 1),
        ("pixtral", 3, 1, 2),
        ("mistral3", 3, 1, 2),
        ("qwen2_text", 2, 1, 2),
        ("qwen3_text", 2, 1, 2),
        ("llama_text", 2, 1, 2),
        ("mistral_text", 2, 1, 2),
        ("mistral_window_text", 2, 1, 2),
        ("qwen2_long_text", 2, 1, 2),
        ("qwen2_5_vl_long", 3, 1, 2),
        ("llava", 3, 1, 2),
        ("llava_next", 3, 1, 2),
        ("llava_onevision", 3, 1, 2),
        ("idefics3", 3, 1, 2),
        ("smolvlm", 3, 1, 2),
        ("gemma3", 3, 1, 2),
        ("paligemma", 2, 1, 2),
    ] {
        let result = compare(&fixture(name)).unwrap();
        assert!(result.passes(), "{name}: {result:?}");
        let counts = (result.num_samples, result.num_checkpoints, result.namings);
        assert_eq!(counts, (num_samples, num_checkpoints, (num_namings, num_namings)), "{name}");
    }
}

#[test]
fn packing_changes_no_bit() {
    for name in CHECKPOINTS {
        let model = frozen(&fixture(name));
        let samples = encoded(&model, &samples(&fixture(name)).unwrap());
        let packed = PackedBatch::pack(&samples.iter().collect::<Vec<_>>());
        let together = model.body.features(&packed).unwrap();
        for (sample, bounds) in samples.iter().zip(packed.cu_seqlens.windows(2)) {
            let alone = features(&model, sample).to_vec2::<f32>().unwrap();
            let part =
                together.narrow(0, bounds[0], bounds[1] - bounds[0]).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(alone, part, "{name}");
        }
    }
}

#[test]
fn wanted_rows_are_those_of_all_rows_bit_for_bit() {
    for name in CHECKPOINTS {
        let model = frozen(&fixture(name));
        let samples = encoded(&model, &samples(&fixture(name)).unwrap());
        let mut packed = PackedBatch::pack(&samples.iter().collect::<Vec<_>>());
        let all = model.body.features(&packed).unwrap();
        let last = packed.num_tokens() as u32 - 1;
        for rows in [vec![last], vec![0, 1, 3], (0..=last).step_by(2).collect(), (0..=last).collect()] {
            let expected = all.index_select(&Tensor::new(rows.as_slice(), &Device::Cpu).unwrap(), 0).unwrap();
            packed.wanted = Some(rows);
            let wanted = model.body.features(&packed).unwrap();
            assert_eq!(wanted.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap(), "{name}");
        }
    }
}

#[test]
fn an_image_used_several_times_is_encoded_once() {
    let with_processors = with_images().filter(|name| fixture(name).join("tokenizer.json").exists());
    for name in with_processors.chain(["qwen2_vl", "internvl"]) {
        let model = frozen(&fixture(name));
        let processor = Processor::load(&fixture(name)).unwrap();
        let samples = samples(&fixture(name)).unwrap();
        let samples: Vec<_> = samples.iter().map(|sample| encode(&processor, sample).unwrap()).collect();
        let once = PackedBatch::pack(&samples.iter().collect::<Vec<_>>());
        let twice = PackedBatch::pack(&samples.iter().chain(&samples).collect::<Vec<_>>());
        assert_eq!(twice.images, once.images, "{name}: the vision encoder sees what it saw");
        assert!(!once.images.is_empty() && twice.image_uses.len() == 2 * once.image_uses.len(), "{name}");
        let expected = model.body.features(&once).unwrap().to_vec2::<f32>().unwrap();
        let features = model.body.features(&twice).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(features, [expected.clone(), expected].concat(), "{name}");
    }
}

#[test]
fn greedy_generation_equals_transformers() {
    for name in CHECKPOINTS {
        let model = frozen(&fixture(name));
        let stored = samples(&fixture(name)).unwrap();
        let inputs = encoded(&model, &stored);
        let config = &model.config.json;
        let named = [&config["eos_token_id"], &config["text_config"]["eos_token_id"]];
        let eos: Vec<u32> = named.iter().filter_map(|id| Some(id.as_u64()? as u32)).collect();
        // make.py: NEW_TOKENS = 8. One sample of internvl_llama ends early, among others that go on.
        let answers = generate_greedy(&model, &inputs.iter().collect::<Vec<_>>(), 8, &eos).unwrap();
        for (sample, answer) in stored.iter().zip(answers) {
            assert_eq!(Some(answer), sample.generated, "{name}/{}", sample.name);
        }
    }
}

/// The sample of a checkpoint that has one image.
fn one_image(name: &str) -> Sample {
    let stored = samples(&fixture(name)).unwrap();
    stored.into_iter().find(|sample| ["image", "one"].contains(&sample.name.as_str())).unwrap()
}

/// Features of `model` that must be far from transformers'.
fn assert_far(wrong: &Tensor, sample: &Sample, what: &str) {
    let worst = worst_error(wrong, sample.features().unwrap()).unwrap();
    assert!(worst > 100.0 * TOLERANCE, "{what}: {worst}");
}

/// Deliberate errors must be far outside the tolerance, or the tests above prove nothing.
#[test]
fn deliberate_errors_show() {
    for name in with_images() {
        let model = frozen(&fixture(name));
        let sample = one_image(name);
        let inputs = sample.stored_inputs(&model).unwrap();
        let far = |wrong: Encoded| assert_far(&features(&model, &wrong), &sample, name);
        let mut zero_pixels = inputs.clone();
        zero_pixels.images[0].pixels.fill(0.0);
        far(zero_pixels);
        let mut mirrored = inputs.clone();
        mirrored.images[0].pixels.reverse();
        far(mirrored);
        let mut shifted = PackedBatch::pack(&[&inputs]);
        shifted.image_rows.iter_mut().for_each(|row| *row += 1);
        assert_far(&model.body.features(&shifted).unwrap(), &sample, name);
        let mut noisy = inputs.clone();
        noisy.images[0].pixels.iter_mut().step_by(2).for_each(|pixel| *pixel += 0.02);
        let worst = worst_error(&features(&model, &noisy), sample.features().unwrap()).unwrap();
        assert!(worst > 5.0 * TOLERANCE, "{name}: {worst}");
        if name.contains("qwen") {
            let mut plain_rope = inputs.clone();
            plain_rope.positions = (0..inputs.positions.len() as u32).map(|t| [t; 3]).collect();
            far(plain_rope);
            let mut transposed = inputs;
            transposed.images[0].grid.swap(1, 2);
            far(transposed);
        }
    }
}

#[test]
fn windows_and_deepstack_are_not_decoration() {
    let copy = copy_of("qwen2_5_vl");
    edit_config(copy.path(), |json| {
        json["vision_config"]["fullatt_block_indexes"] = serde_json::json!([0, 1]);
    });
    let (model, sample) = (frozen(copy.path()), one_image("qwen2_5_vl"));
    let inputs = sample.stored_inputs(&model).unwrap();
    assert_far(&features(&model, &inputs), &sample, "full attention everywhere");

    let (model, sample) = (frozen(&fixture("qwen3_vl")), one_image("qwen3_vl"));
    let inputs = sample.stored_inputs(&model).unwrap();
    let batch = PackedBatch::pack(&[&inputs]);
    let mut embeds = model.body.embed(&batch).unwrap();
    assert_eq!(embeds.deepstack.len(), 2);
    embeds.deepstack.swap(0, 1);
    assert_far(&model.body.decode(&embeds, &batch).unwrap(), &sample, "deepstack in another order");
    embeds.deepstack.clear();
    assert_far(&model.body.decode(&embeds, &batch).unwrap(), &sample, "no deepstack");
}

#[test]
fn layers_canvases_and_grids_are_not_decoration() {
    // The last layer instead of the one before it, and the class token instead of a patch.
    for (key, value) in [("vision_feature_layer", -1), ("vision_feature_layer", 1)] {
        let copy = copy_of("llava");
        edit_config(copy.path(), |json| json[key] = value.into());
        let (model, sample) = (frozen(copy.path()), one_image("llava"));
        let inputs = sample.stored_inputs(&model).unwrap();
        assert_far(&features(&model, &inputs), &sample, "another layer");
    }
    for name in ["llava_next", "llava_onevision"] {
        let (model, sample) = (frozen(&fixture(name)), one_image(name));
        let mut inputs = sample.stored_inputs(&model).unwrap();
        let [tiles, height, width] = inputs.images[0].grid;
        inputs.images[0].grid = [tiles, width, height];
        let refused = model.body.features(&PackedBatch::pack(&[&inputs])).unwrap_err().to_string();
        assert!(refused.contains("image_grid_pinpoints") || refused.contains("image tokens"), "{refused}");
    }
    let copy = copy_of("llava_onevision");
    edit_config(copy.path(), |json| json["vision_aspect_ratio"] = "anyres_max_9".into());
    let (model, sample) = (frozen(copy.path()), one_image("llava_onevision"));
    let inputs = sample.stored_inputs(&model).unwrap();
    let refused = model.body.features(&PackedBatch::pack(&[&inputs])).unwrap_err().to_string();
    assert!(refused.contains("image tokens"), "without shrinking there are more: {refused}");
}

#[test]
fn windows_bases_and_prefixes_are_not_decoration() {
    for (key, value) in
        [("sliding_window", 4096), ("sliding_window_pattern", 2), ("query_pre_attn_scalar", 8)]
    {
        let copy = copy_of("gemma3");
        edit_config(copy.path(), |json| json["text_config"][key] = value.into());
        let (model, sample) = (frozen(copy.path()), one_image("gemma3"));
        let inputs = sample.stored_inputs(&model).unwrap();
        assert_far(&features(&model, &inputs), &sample, key);
    }
    let copy = copy_of("gemma3");
    edit_config(copy.path(), |json| json["text_config"]["rope_scaling"]["factor"] = 1.0.into());
    let (model, sample) = (frozen(copy.path()), one_image("gemma3"));
    let inputs = sample.stored_inputs(&model).unwrap();
    assert_far(&features(&model, &inputs), &sample, "positions that are not scaled");

    let (model, sample) = (frozen(&fixture("paligemma")), one_image("paligemma"));
    let inputs = sample.stored_inputs(&model).unwrap();
    let mut batch = PackedBatch::pack(&[&inputs]);
    batch.question_lens = vec![0];
    assert_far(&model.body.features(&batch).unwrap(), &sample, "a question that sees backwards only");
    batch.question_lens = vec![inputs.prompt.input_ids.len()];
    assert_far(&model.body.features(&batch).unwrap(), &sample, "an answer that sees forwards");
}

#[test]
fn half_precision_runs_in_its_own_type() {
    for name in CHECKPOINTS {
        let model = load(&fixture(name), &options(DType::BF16)).unwrap();
        for sample in samples(&fixture(name)).unwrap() {
            let inputs = sample.stored_inputs(&model).unwrap();
            let ours = features(&model, &inputs);
            assert_eq!(ours.dtype(), DType::BF16);
            let worst = worst_error(&ours, sample.features().unwrap()).unwrap();
            // Features reach 4.5, and 7 in Gemma; PyTorch's own bfloat16 is off by up to 0.15, and 0.56 there.
            let limit = if name.contains("gemma") { 0.8 } else { 0.25 };
            assert!(worst < limit, "{name}/{}: {worst}", sample.name);
        }
    }
}

#[test]
fn sliding_windows_and_long_contexts_are_not_decoration() {
    for (name, key, value) in [
        ("mistral_window_text", "sliding_window", 9.into()),
        ("mistral_window_text", "sliding_window", serde_json::Value::Null),
        ("qwen2_long_text", "max_window_layers", 0.into()),
        ("qwen2_long_text", "use_sliding_window", false.into()),
        ("qwen2_long_text", "rope_scaling", serde_json::Value::Null),
        ("qwen2_long_text", "layer_types", serde_json::json!(["sliding_attention", "full_attention"])),
        ("qwen2_5_vl_long", "rope_scaling", serde_json::json!({"type": "mrope", "mrope_section": [2, 3, 3]})),
    ] {
        let copy = copy_of(name);
        edit_config(copy.path(), |json| json[key] = value);
        let (model, sample) = (frozen(copy.path()), samples(&fixture(name)).unwrap().remove(0));
        let inputs = sample.stored_inputs(&model).unwrap();
        assert_far(&features(&model, &inputs), &sample, &format!("{name}: another `{key}`"));
    }
}

/// Alone a sample no longer than the window goes the usual way, beside a longer one that of windows.
#[test]
fn a_sliding_window_changes_no_bit_before_it_ends() {
    let copy = copy_of("mistral_text");
    edit_config(copy.path(), |json| json["sliding_window"] = 38.into());
    let model = frozen(copy.path());
    let samples = encoded(&model, &samples(&fixture("mistral_text")).unwrap());
    let [short, long] = &samples[..] else { panic!("two samples") };
    assert_eq!([short, long].map(|sample| sample.prompt.input_ids.len()), [38, 119]);
    let plain = features(&frozen(&fixture("mistral_text")), short).to_vec2::<f32>().unwrap();
    assert_eq!(features(&model, short).to_vec2::<f32>().unwrap(), plain);
    let together = model.body.features(&PackedBatch::pack(&[short, long])).unwrap();
    assert_eq!(together.narrow(0, 0, 38).unwrap().to_vec2::<f32>().unwrap(), plain);
}
