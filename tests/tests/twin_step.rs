//! One step of each stage against PyTorch, without Python: the losses and gradients that `tests/peers/twin_step.py` computed
//! with transformers' models and kept in `tests/fixtures/twin_step/*.json`.
//!
//! As there, the learning rate is so small that no weight moves, and AdamW's first moment is (1 - beta1) times the
//! gradient. Losses agree within 1e-5 of their size, the norm of each gradient within 1e-4 of its own and 1e-6 of all
//! together (a key's bias has no effect under softmax: its gradient is noise).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use e2e::distilled::{metrics, weights};
use e2e::programs::run;
use e2e::rows::fixture;
use serde_json::Value;

const BETA1: f64 = 0.9;
/// The stages with the step of theirs that is compared.
const STAGES: [(&str, u64); 3] = [("align", 1), ("distill", 3), ("finetune", 5)];

/// As `RUN_KEYS` in twin_step.py.
fn keys() -> Vec<String> {
    let of_stage = ["steps=2", "lr=1e-30", "lr_end=1e-30", "warmup=0.0", "clip=0.0", "batch_size=1000"];
    let mut keys: Vec<String> =
        STAGES.iter().flat_map(|(stage, _)| of_stage.map(|key| format!("{stage}.{key}"))).collect();
    keys.push("finetune.train=['vision','projector','body','head']".into());
    keys.extend(["eval.holdout=0", "checkpoint.every=1", "checkpoint.keep=9"].map(str::to_owned));
    keys
}

fn succeed(program: &str, args: &[&str]) {
    let finished = run(program, args).unwrap();
    assert_eq!(finished.code, Some(0), "{program} {args:?}\n{}", finished.stderr);
}

fn run_both(teacher: &str, student: &str, dir: &Path) {
    let text = |path: &Path| path.display().to_string();
    let (cache, out) = (text(&dir.join("cache")), text(&dir.join("run")));
    let (data, images) = (text(&fixture("twin_step").join("data.json")), text(&fixture("images")));
    let teacher = text(&fixture(teacher));
    let inputs = ["--teacher", &teacher, "--data", &data, "--image-root", &images, "--out", &cache];
    let what = ["--features", "all", "--embed-images", "--dtype", "f32", "--device", "cpu"];
    succeed("extract", &[["run"].as_slice(), &inputs, &what].concat());
    let student = text(&fixture(student));
    let keys = keys();
    let sets: Vec<&str> = keys.iter().flat_map(|key| ["--set", key.as_str()]).collect();
    let run = ["run", "--cache", &cache, "--student", &student, "--out", &out, "--device", "cpu"];
    succeed("distill", &[run.as_slice(), &sets].concat());
}

fn near(what: &str, got: f64, expected: f64, allowed: f64) {
    assert!((got - expected).abs() <= allowed, "{what}: {got}, PyTorch {expected}");
}

fn check(teacher: &str, student: &str) {
    let dir = tempfile::tempdir().unwrap();
    run_both(teacher, student, dir.path());
    let path = fixture("twin_step").join(format!("{teacher}_to_{student}.json"));
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let rows = metrics(&dir.path().join("run")).unwrap();
    for (stage, step) in STAGES {
        let row = rows.iter().find(|row| row["step"] == step).unwrap();
        assert_eq!(row["stage"], stage);
        let golden = golden[stage].as_object().unwrap();
        let total = golden["grad_norm"].as_f64().unwrap();
        for (name, expected) in golden {
            let Some(expected) = expected.as_f64() else { continue };
            let share = if name == "grad_norm" { 1e-4 } else { 1e-5 };
            near(&format!("{stage} {name}"), row[name].as_f64().unwrap(), expected, share * expected.abs());
        }
        let file = dir.path().join(format!("run/checkpoints/step-{step}/optimizer.safetensors"));
        let moments = weights(&file).unwrap();
        let gradients = golden["gradient_norms"].as_object().unwrap();
        assert_eq!(moments.keys().filter(|name| name.starts_with("m.")).count(), gradients.len(), "{stage}");
        for (name, expected) in gradients {
            let moment = moments[&format!("m.{name}")].sqr().unwrap().sum_all().unwrap();
            let norm = f64::from(moment.to_scalar::<f32>().unwrap()).sqrt() / (1.0 - BETA1);
            let expected = expected.as_f64().unwrap();
            near(&format!("{stage} gradient of {name}"), norm, expected, 1e-4 * expected + 1e-6 * total);
        }
    }
}

#[test]
fn a_step_from_qwen2_vl_to_internvl_is_pytorchs() {
    check("qwen2_vl", "internvl");
}

#[test]
fn a_step_from_internvl_to_qwen2_vl_is_pytorchs() {
    check("internvl", "qwen2_vl");
}
