//! LoRA on a student: what trains, that it equals PyTorch's, resumes exactly, and is merged into what a run leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use distill::config::LoraConfig;
use distill::lora::{adapt, replacements};
use e2e::distilled::{distill, distilled, metrics, weights};
use e2e::programs::run;
use e2e::reference::{CHECKPOINTS, samples, worst_error};
use e2e::rows::fixture;
use serde_json::Value;
use shared::models::{LoadOptions, Model, ModelPart, PackedBatch, config_of, export_checkout, load};

/// Stage distill with adapters of rank 2 on the body in place of the body itself.
const KEYS: [&str; 10] = [
    "--stages",
    "distill",
    "--set",
    "distill.train=[]",
    "--set",
    "distill.lora.rank=2",
    "--set",
    "distill.lora.linears=['q_proj', 'mlp.down_proj']",
    "--set",
    "checkpoint.every=1",
];

fn open(dir: &Path) -> Model {
    load(dir, &LoadOptions::frozen(Device::Cpu, DType::F32)).unwrap()
}

fn features(name: &str, model: &Model) -> Tensor {
    let sample = samples(&fixture(name)).unwrap().pop().unwrap();
    let batch = PackedBatch::pack(&[&sample.stored_inputs(model).unwrap()]);
    model.body.features(&batch).unwrap()
}

/// The names of the adapted layers of the InternVL fixture's body, as a run has them.
fn adapted() -> BTreeSet<String> {
    let family = config_of(&fixture("internvl")).unwrap().family;
    let stored = weights(&fixture("internvl")).unwrap().into_keys();
    let names = stored.map(|name| family.canonical_name(&name).into_owned());
    let body = names.filter(|name| family.part_of(name) == ModelPart::Body);
    let layers = body.filter_map(|name| name.strip_suffix(".weight").map(|name| format!("student.{name}")));
    layers.filter(|name| name.ends_with(".q_proj") || name.ends_with(".mlp.down_proj")).collect()
}

#[test]
fn adapters_of_every_family_begin_as_nothing_and_are_exported_merged() {
    for name in CHECKPOINTS {
        let before = features(name, &open(&fixture(name)));
        let mut model = open(&fixture(name));
        let keys = LoraConfig { rank: 3, ..LoraConfig::default() };
        adapt(&mut model, &keys, 5).unwrap();
        let at_first = features(name, &model);
        assert_eq!(worst_error(&at_first, &before).unwrap(), 0.0, "{name}: step 0 is not the base model");
        assert!(model.params.len() >= 14, "{name}: {} matrices", model.params.len());
        for (key, param) in model.params.iter().filter(|(key, _)| key.ends_with("lora_B.weight")) {
            let values = Tensor::arange(0f32, param.var.elem_count() as f32, &Device::Cpu).unwrap();
            let values = (values.sin().unwrap() * 0.02).unwrap().reshape(param.var.shape()).unwrap();
            param.var.set(&values).unwrap_or_else(|error| panic!("{name}: `{key}`: {error}"));
        }
        let trained = features(name, &model);
        assert!(worst_error(&trained, &before).unwrap() > 1e-2, "{name}: adapters that do nothing");
        let pairs = model.params.tensors().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("merged");
        let merged = replacements(pairs, Some(&keys)).unwrap();
        export_checkout(&fixture(name), &out, &merged, Some(DType::F32)).unwrap();
        let error = worst_error(&features(name, &open(&out)), &trained).unwrap();
        assert!(error < 2e-4, "{name}: merged features differ by {error}");
    }
}

/// The norms of AdamW's first moments after a step: not zero where a gradient has been.
fn moments(out: &Path, step: usize) -> BTreeMap<String, f64> {
    let moments = weights(&out.join(format!("checkpoints/step-{step}/optimizer.safetensors"))).unwrap();
    let norm = |tensor: &Tensor| tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    let first = moments.iter().filter_map(|(name, moment)| Some((name.strip_prefix("m.")?, moment)));
    first.map(|(name, moment)| (name.to_owned(), f64::from(norm(moment)).sqrt())).collect()
}

#[test]
fn layers_that_a_later_stage_does_not_find_are_refused_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let keys = ["--set", "finetune.train=[]", "--set", "finetune.lora.linears=['nope']"];
    let finished = distill(&out, &keys).unwrap();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("`nope`") && finished.stderr.contains("hint:"), "{}", finished.stderr);
    assert!(!out.join("metrics.jsonl").exists(), "no step was made");
}

#[test]
fn matrices_learn_in_turn_and_the_body_is_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let more = ["--set", "checkpoint.keep=9", "--set", "distill.warmup=0.0"];
    let finished = distill(&out, &[&KEYS[..], &more].concat()).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let layers = adapted();
    assert_eq!(layers.len(), 4);
    let [first, second] = [1, 2].map(|step| moments(&out, step));
    let ours: BTreeSet<&str> =
        first.keys().map(String::as_str).filter(|name| name.starts_with("student.")).collect();
    let pairs: BTreeSet<String> = layers
        .iter()
        .flat_map(|layer| ["A", "B"].map(|matrix| format!("{layer}.lora_{matrix}.weight")))
        .collect();
    assert_eq!(ours, pairs.iter().map(String::as_str).collect());
    for layer in &layers {
        let [a, b] = ["A", "B"].map(|matrix| format!("{layer}.lora_{matrix}.weight"));
        // While B is zero nothing depends on A.
        assert!(first[&b] > 0.0 && first[&a] == 0.0, "{layer}: {} {}", first[&a], first[&b]);
        assert!(second[&b] > 0.0 && second[&a] > 0.0, "{layer}: {} {}", second[&a], second[&b]);
    }
    // The first step sees the student as it was, to the bit: the same loss as with the whole body trained.
    let whole = dir.path().join("whole");
    distilled(&whole, &["--stages", "distill"]).unwrap();
    assert_eq!(metrics(&out).unwrap()[0]["loss"], metrics(&whole).unwrap()[0]["loss"]);

    let trained = weights(&out.join("checkpoints/step-1/weights.safetensors")).unwrap();
    let student = trained.iter().filter(|(name, _)| name.starts_with("student."));
    let number: usize = student.map(|(_, tensor)| tensor.elem_count()).sum();
    assert!(finished.stderr.contains(&format!("{number} of them the student's")), "{}", finished.stderr);

    // What a checkpoint exports is W + alpha / rank B A, by the formula.
    let exported = dir.path().join("exported");
    let [from, to] = [&out, &exported].map(|path| path.display().to_string());
    let finished = run("distill", ["export", &from, "--out", &to, "--step", "4", "--dtype", "f32"]).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let (before, after) = (weights(&fixture("internvl")).unwrap(), weights(&exported).unwrap());
    assert!(before.keys().eq(after.keys()));
    let trained = weights(&out.join("checkpoints/step-4/weights.safetensors")).unwrap();
    let family = config_of(&fixture("internvl")).unwrap().family;
    let mut num_merged = 0;
    for (name, tensor) in &before {
        let layer = format!("student.{}", family.canonical_name(name).trim_end_matches(".weight"));
        let before = tensor.to_dtype(DType::F32).unwrap();
        let pair = ["A", "B"].map(|matrix| trained.get(&format!("{layer}.lora_{matrix}.weight")));
        let [Some(a), Some(b)] = pair else {
            assert_eq!(worst_error(&before, &after[name]).unwrap(), 0.0, "`{name}` moved");
            continue;
        };
        let added = (b.matmul(a).unwrap() * (32.0 / 2.0)).unwrap();
        let expected = (&before + &added).unwrap();
        assert!(worst_error(&expected, &before).unwrap() > 1e-5, "`{name}` did not move");
        assert!(worst_error(&after[name], &expected).unwrap() < 1e-6, "`{name}`");
        num_merged += 1;
    }
    assert_eq!(num_merged, layers.len());
    let card = fs::read_to_string(exported.join("README.md")).unwrap();
    assert!(card.contains("| LoRA in stage distill | rank 2, alpha 32 |"), "{card}");
}

#[test]
fn stopping_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<&str> =
        KEYS.iter().map(|key| if *key == "distill" { "distill,finetune" } else { key }).collect();
    let more = ["--set", "finetune.train=['projector']", "--set", "finetune.lora.rank=1"];
    let keys = [&keys[..], &more, &["--set", "memory.recompute=always"]].concat();
    let [whole, stopped] = ["whole", "stopped"].map(|name| dir.path().join(name));
    distilled(&whole, &keys).unwrap();
    for stop in ["2", "5", "7"] {
        let set = format!("checkpoint.stop_after_steps={stop}");
        assert_eq!(distill(&stopped, &[&keys[..], &["--set", &set]].concat()).unwrap().code, Some(1));
    }
    distilled(&stopped, &[&keys[..], &["--set", "memory.recompute=never"]].concat()).unwrap();
    let losses =
        |out: &Path| -> Vec<Value> { metrics(out).unwrap().iter().map(|row| row["loss"].clone()).collect() };
    assert_eq!(losses(&whole), losses(&stopped));
    for stage in ["distill", "finetune"] {
        let left =
            |out: &Path| fs::read(out.join("stages").join(stage).join("student/model.safetensors")).unwrap();
        assert!(left(&whole) == left(&stopped), "stage {stage} left something else");
    }
}

/// PyTorch's numbers are those of tests/peers/lora.py, which hooks adapters into transformers' model.
#[test]
fn updates_equal_pytorch() {
    let golden: Vec<Value> =
        serde_json::from_slice(&fs::read(fixture("twin_step/lora.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let text = |name: &str| fixture(name).display().to_string();
    let (cache, out) = (path("cache"), path("run"));
    let (teacher, student) = (text("qwen2_vl"), text("internvl"));
    let (data, images) = (text("twin_step/data.json"), text("images"));
    let extract = ["run", "--device", "cpu", "--features", "all", "--embed-images", "--dtype", "f32"];
    let paths = ["--teacher", &teacher, "--data", &data, "--image-root", &images, "--out", &cache];
    let finished = run("extract", [&extract[..], &paths].concat()).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    // The script's keys.
    let sets = [
        "distill.train=[]",
        "distill.lora.rank=3",
        "distill.lora.alpha=6.0",
        "distill.lora.linears=['q_proj', 'mlp.*']",
        "distill.warmup=0.0",
        "distill.clip=0.0",
        "distill.batch_size=5",
        "distill.steps=3",
        "eval.holdout=0",
        "distill.lr=1e-2",
        "distill.lr_end=1e-2",
    ];
    let args = ["run", "--device", "cpu", "--stages", "distill", "--cache", &cache, "--student", &student];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let finished = run("distill", [&args[..], &["--out", &out], &sets].concat()).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let rows = metrics(Path::new(&out)).unwrap();
    assert_eq!((rows.len(), golden.len()), (3, 3));
    for (row, expected) in rows.iter().zip(&golden) {
        for (name, theirs) in expected.as_object().unwrap().iter().filter(|(name, _)| *name != "stage") {
            let (ours, theirs) = (row[name].as_f64().unwrap(), theirs.as_f64().unwrap());
            let error = (ours / theirs - 1.0).abs();
            assert!(error < 5e-5, "step {}: {name}: {ours}, PyTorch {theirs}", row["step"]);
        }
    }
}

#[test]
fn what_cannot_be_adapted_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |sets: &[&str]| {
        let mut args = vec!["--stages", "distill"];
        args.extend(sets.iter().flat_map(|set| ["--set", set]));
        distill(&dir.path().join("run"), &args).unwrap()
    };
    let unmatched = refused(&["distill.train=[]", "distill.lora.linears=['q_proj', 'w1']"]);
    assert_eq!(unmatched.code, Some(1), "{}", unmatched.stderr);
    assert!(unmatched.stderr.contains("names `w1`"), "{}", unmatched.stderr);
    assert!(unmatched.stderr.contains("layers.0.self_attn.q_proj, "), "{}", unmatched.stderr);
    assert!(!unmatched.stderr.contains("layers.1."), "{}", unmatched.stderr);
    let trained = refused(&["distill.lora.rank=2"]);
    assert_eq!(trained.code, Some(2), "{}", trained.stderr);
    assert!(trained.stderr.contains("hint: leave `body` out of `distill.train`"), "{}", trained.stderr);
}
