//! The shipped toy: its teacher knows the world, and its models have the sizes that are claimed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};

use e2e::programs::run;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

fn toy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("datasets/toy")
}

/// Bytes of the weights' file and the number of parameters in it, all float16.
fn size(model: &str) -> (usize, usize) {
    let bytes = std::fs::read(toy().join(model).join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let count = |(_, tensor): (String, safetensors::tensor::TensorView)| {
        assert_eq!(tensor.dtype(), Dtype::F16, "{model}");
        tensor.shape().iter().product::<usize>()
    };
    (bytes.len(), tensors.tensors().into_iter().map(count).sum())
}

/// The questions turn on objects in places where no training picture shows their kind. The bound is what a
/// teacher must at least know to be worth learning from; the shipped one was measured at 98.8 %.
#[test]
fn the_teacher_answers_what_training_never_showed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let manifest = toy().join("toy.toml");
    let made = run("toy", ["--manifest", manifest.to_str().unwrap(), "world", "--out", out, "test"]).unwrap();
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let teacher = toy().join("teacher");
    let data = format!("{out}/test.json");
    let eval = format!("{out}/eval");
    let asked = run(
        "distill",
        [
            ["eval", "--json"],
            ["--model", teacher.to_str().unwrap()],
            ["--data", &data],
            ["--image-root", out],
            ["--max-new-tokens", "100"],
            ["--out", &eval],
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    let summary: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!((&summary["questions"], &summary["quarantined"]), (&400.into(), &0.into()));
    let accuracy = summary["accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.95, "{summary:#}");
}

#[test]
fn the_teacher_fits_into_8_mb_and_the_student_has_about_a_tenth_of_it() {
    let ((bytes, teacher), (_, student)) = (size("teacher"), size("student"));
    assert!(bytes <= 8_000_000, "{bytes} bytes");
    let ratio = teacher as f64 / student as f64;
    assert!((8.0..=12.0).contains(&ratio), "{teacher} / {student}");
}
