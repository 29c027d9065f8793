//! Steps of all three stages against PyTorch's, without PyTorch: both families as teacher and as student.
//!
//! tests/peers/twin_step.py made the numbers with transformers' models and formulas of its own, and kept them with
//! `--write`. The programs run here with the script's keys.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use e2e::distilled::{metrics, weights};
use e2e::programs::run;
use e2e::rows::fixture;
use serde_json::Value;

const STAGES: [&str; 3] = ["align", "distill", "finetune"];

/// AdamW's first moment after one step is the gradient times 1 - beta1.
const ONE_LESS_BETA1: f64 = 0.1;

fn program(name: &str, args: &[&str]) {
    let finished = run(name, args).unwrap();
    assert_eq!(finished.code, Some(0), "{name}: {}", finished.stderr);
}

/// `distill run` with these keys of every stage, and the script's others.
fn distill(cache: &str, student: &str, out: &Path, keys: &[&str]) {
    let mut sets: Vec<String> =
        STAGES.iter().flat_map(|stage| keys.iter().map(move |key| format!("{stage}.{key}"))).collect();
    sets.extend(STAGES.map(|stage| format!("{stage}.warmup=0.0")));
    sets.extend(STAGES.map(|stage| format!("{stage}.batch_size=1000")));
    sets.push("finetune.train=['vision','projector','body','head']".into());
    sets.extend(["eval.holdout=0", "checkpoint.every=1", "checkpoint.keep=9"].map(str::to_owned));
    let out = out.display().to_string();
    let mut args = vec!["run", "--device", "cpu", "--cache", cache, "--student", student, "--out", &out];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    program("distill", &args);
}

/// Every loss term and the gradient's norm of a row, within `tolerance` of theirs.
fn assert_row(row: &Value, expected: &Value, tolerance: f64) {
    let fields = expected.as_object().unwrap().iter().filter(|(name, _)| *name != "gradients");
    let mut num_terms = 0;
    for (name, theirs) in fields.filter(|(name, _)| *name != "stage") {
        let (ours, theirs) = (row[name].as_f64().unwrap(), theirs.as_f64().unwrap());
        assert!((ours / theirs - 1.0).abs() < tolerance, "step {}: {name}: {ours}, {theirs}", row["step"]);
        num_terms += 1;
    }
    assert!(num_terms >= 3, "{expected}");
}

/// The norm of a gradient, and its projection on cos 0, cos 1, cos 2, ...
fn norm_and_projection(moment: &Tensor) -> [f64; 2] {
    let values: Vec<f64> = moment.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let projection = values.iter().enumerate().map(|(i, x)| x * (i as f64).cos()).sum::<f64>();
    [norm / ONE_LESS_BETA1, projection / ONE_LESS_BETA1]
}

fn assert_gradients(out: &Path, step: usize, expected: &Value) {
    let moments = weights(&out.join(format!("checkpoints/step-{step}/optimizer.safetensors"))).unwrap();
    let ours: BTreeMap<&str, &Tensor> =
        moments.iter().filter_map(|(name, moment)| Some((name.strip_prefix("m.")?, moment))).collect();
    let theirs = expected["gradients"].as_object().unwrap();
    assert_eq!(ours.keys().copied().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    let whole = expected["grad_norm"].as_f64().unwrap();
    for (name, moment) in ours {
        let [norm, projection] = norm_and_projection(moment);
        let [their_norm, their_projection] = [0, 1].map(|i| theirs[name][i].as_f64().unwrap());
        // The gradient of a key's bias is noise: softmax does not see it.
        let allowed = 1e-4 * their_norm + 1e-6 * whole;
        assert!((norm - their_norm).abs() < allowed, "step {step}: `{name}`: {norm}, PyTorch {their_norm}");
        // A difference of that size may lie along the cosines, whose norm is at most the root of half their number.
        let cosines = (moment.elem_count() as f64 / 2.0).sqrt().max(1.0);
        let error = (projection - their_projection).abs();
        assert!(error < allowed * cosines, "step {step}: `{name}`: {projection}, PyTorch {their_projection}");
    }
}

fn assert_pair(teacher: &str, student: &str) {
    let golden = fixture(&format!("twin_step/{teacher}_{student}.json"));
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let text = |name: &str| fixture(name).display().to_string();
    let cache = path("cache");
    let (teacher, student, data, images) =
        (text(teacher), text(student), text("twin_step/data.json"), text("images"));
    let mut args = vec!["run", "--device", "cpu", "--features", "all", "--embed-images", "--dtype", "f32"];
    args.extend(["--teacher", &teacher, "--data", &data, "--image-root", &images, "--out", &cache]);
    program("extract", &args);

    // Steps that move nothing leave each stage's gradients in its optimizer.
    let out = dir.path().join("still");
    distill(&cache, &student, &out, &["steps=2", "lr=1e-30", "lr_end=1e-30", "clip=0.0"]);
    let rows = metrics(&out).unwrap();
    for (stage, step) in STAGES.iter().zip([1, 3, 5]) {
        assert_eq!(rows[step - 1]["stage"], *stage);
        assert_row(&rows[step - 1], &golden[stage], 1e-5);
        assert_gradients(&out, step, &golden[stage]);
    }

    let out = dir.path().join("updates");
    distill(&cache, &student, &out, &["steps=3", "lr=1e-3", "lr_end=1e-3", "clip=1.0", "weight_decay=0.1"]);
    let rows = metrics(&out).unwrap();
    let updates = golden["updates"].as_array().unwrap();
    assert_eq!((rows.len(), updates.len()), (9, 9));
    for (row, expected) in rows.iter().zip(updates) {
        assert_eq!(row["stage"], expected["stage"]);
        // The script allows as much: errors of one update grow through the next.
        assert_row(row, expected, 5e-5);
    }
}

#[test]
fn qwen2_vl_teaches_internvl() {
    assert_pair("qwen2_vl", "internvl");
}

#[test]
fn internvl_teaches_qwen2_vl() {
    assert_pair("internvl", "qwen2_vl");
}
