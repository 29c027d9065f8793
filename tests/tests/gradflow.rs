//! Gradients of all families: every trainable weight gets one, equal to PyTorch's; no frozen weight gets any.
//!
//! The expected sums and norms are PyTorch's, stored by tests/fixtures/models/make.py and make_small_families.py.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use e2e::distilled::is_same;
use e2e::reference::{CHECKPOINTS, image_token, samples};
use e2e::rows::fixture;
use shared::models::layers::Recomputed;
use shared::models::{LoadOptions, Model, ModelPart, PackedBatch, TrainableParts, expected_weights, load};

#[derive(serde::Deserialize)]
struct Expected {
    sum: f64,
    norm: f64,
}

fn trainable(name: &str, parts: &[ModelPart]) -> Model {
    let options =
        LoadOptions { trainable: TrainableParts::of(parts), ..LoadOptions::frozen(Device::Cpu, DType::F32) };
    load(&fixture(name), &options).unwrap()
}

/// Gradients of the mean next-token cross entropy over the text tokens of the last sample, as make.py has it.
fn backward(name: &str, model: &Model) -> GradStore {
    let sample = samples(&fixture(name)).unwrap().pop().unwrap();
    let image = image_token(model).unwrap();
    let batch = PackedBatch::pack(&[&sample.stored_inputs(model).unwrap()]);
    let logits = model.head.logits(&model.body.features(&batch).unwrap()).unwrap();
    let kept: Vec<u32> = (0..batch.num_tokens() as u32 - 1)
        .filter(|&t| Some(batch.input_ids[t as usize + 1]) != image)
        .collect();
    let targets: Vec<u32> = kept.iter().map(|&t| batch.input_ids[t as usize + 1]).collect();
    let logits = logits.index_select(&Tensor::new(kept, &Device::Cpu).unwrap(), 0).unwrap();
    candle_nn::loss::cross_entropy(&logits, &Tensor::new(targets, &Device::Cpu).unwrap())
        .unwrap()
        .backward()
        .unwrap()
}

/// By canonical name.
fn expected(name: &str, model: &Model) -> BTreeMap<String, Expected> {
    let text = fs::read_to_string(fixture(name).join("ref/gradients.json")).unwrap();
    let stored: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
    stored
        .into_iter()
        .map(|(key, value)| (model.config.family.canonical_name(&key).into_owned(), value))
        .collect()
}

#[test]
fn gradients_equal_pytorch() {
    for name in CHECKPOINTS {
        let model = trainable(name, &ModelPart::ALL);
        let gradients = backward(name, &model);
        let expected = expected(name, &model);
        let names: BTreeSet<&str> = model.params.iter().map(|(key, _)| key).collect();
        assert_eq!(names, expected.keys().map(String::as_str).collect(), "{name}: trainable weights");
        for (key, param) in model.params.iter() {
            let gradient =
                gradients.get(&param.var).unwrap_or_else(|| panic!("{name}: no gradient for `{key}`"));
            let gradient = gradient.to_dtype(DType::F64).unwrap();
            let sum: f64 = gradient.sum_all().unwrap().to_scalar().unwrap();
            let norm: f64 = gradient.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar().unwrap();
            let Expected { sum: their_sum, norm: their_norm } = expected[key];
            if is_zero_by_symmetry(name, key) {
                assert!(norm < 1e-5 && their_norm < 1e-5, "{name}: `{key}` has {norm}, PyTorch {their_norm}");
                continue;
            }
            assert!(norm > 1e-4, "{name}: the gradient of `{key}` vanishes: {norm}");
            assert!(
                (norm - their_norm).abs() < 1e-3 * their_norm,
                "{name}: `{key}`: norm {norm}, PyTorch {their_norm}"
            );
            assert!(
                (sum - their_sum).abs() < 1e-3 * their_norm,
                "{name}: `{key}`: sum {sum}, PyTorch {their_sum}"
            );
        }
    }
}

/// Without a rotary embedding or a norm behind it, a bias on the keys adds the same to all scores of a query.
fn is_zero_by_symmetry(name: &str, key: &str) -> bool {
    let norms = ["qwen", "internvl_llama"];
    let is_vision = key.contains("vision_tower.") || key.contains("vision_model.");
    is_vision && key.ends_with(".k_proj.bias") && !norms.iter().any(|family| name.contains(family))
}

#[test]
fn recomputed_blocks_give_the_same_gradients() {
    use ModelPart::{Body, Projector};
    for name in CHECKPOINTS {
        for parts in [&ModelPart::ALL[..], &[Body], &[Projector]] {
            let plain = trainable(name, parts);
            let expected = backward(name, &plain);
            let mut model = trainable(name, parts);
            let recomputed = Recomputed::default();
            model.body.recompute(recomputed.clone());
            let gradients = backward(name, &model);
            for (key, param) in model.params.iter() {
                let weight = param.var.as_tensor();
                let got = match (gradients.get(weight), recomputed.take(weight)) {
                    (Some(a), Some(b)) => (a + b).unwrap(),
                    (a, b) => {
                        a.cloned().or(b).unwrap_or_else(|| panic!("{name} {parts:?}: none for `{key}`"))
                    }
                };
                let expected = expected.get(&plain.params.get(key).unwrap().var).unwrap();
                assert!(is_same(&got, expected).unwrap(), "{name} {parts:?}: `{key}` differs");
            }
            // What stayed here would stay for good, and each step would add to it.
            assert!(recomputed.is_empty(), "{name} {parts:?}: gradients of what does not train");
        }
    }
}

#[test]
fn each_stage_trains_its_parts_and_nothing_else() {
    use ModelPart::{Body, Head, Projector, Vision};
    // Distillation trains the body, fine-tuning all but the vision encoder; the others must be possible too.
    let stages: [&[ModelPart]; 6] = [
        &[Body],
        &[Projector, Body, Head],
        &[Vision, Projector, Body, Head],
        &[Projector],
        &[Vision],
        &[Body, Head],
    ];
    for name in CHECKPOINTS {
        for parts in stages {
            let model = trainable(name, parts);
            let gradients = backward(name, &model);
            for (key, param) in model.params.iter() {
                let gradient =
                    gradients.get(&param.var).unwrap_or_else(|| panic!("{name} {parts:?}: none for `{key}`"));
                let norm: f32 =
                    gradient.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar().unwrap();
                assert!(norm.is_finite(), "{name} {parts:?}: `{key}`");
                assert!(
                    norm > 1e-4 || is_zero_by_symmetry(name, key),
                    "{name} {parts:?}: `{key}` has {norm}"
                );
                let tied_head =
                    model.head.tied && parts.contains(&Head) && key.ends_with("embed_tokens.weight");
                assert!(parts.contains(&param.part) || tied_head, "{name} {parts:?}: `{key}`");
            }
            let trained: HashSet<_> =
                model.params.iter().map(|(_, param)| param.var.as_tensor().id()).collect();
            // Candle keeps gradients of constants that are concatenated or added to something trained (the rows of
            // frozen image features); those are not weights, and no weight has their shape.
            let weights: HashSet<Vec<usize>> =
                expected_weights(&model.config).unwrap().into_values().collect();
            for id in gradients.get_ids().filter(|id| !trained.contains(id)) {
                let shape = gradients.get_id(*id).unwrap().dims();
                assert!(
                    !weights.contains(shape),
                    "{name} {parts:?}: a gradient of a frozen weight {shape:?}"
                );
            }
        }
    }
}
