//! Checkouts: sizes as promised, and the shipped student made again.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

use std::path::PathBuf;

use safetensors::SafeTensors;

use super::*;

fn toy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("toy")
}

fn manifest() -> Manifest {
    Manifest::read(&toy().join("toy.toml")).unwrap()
}

fn num_parameters(file: &Path) -> usize {
    let bytes = fs::read(file).unwrap();
    SafeTensors::deserialize(&bytes)
        .unwrap()
        .tensors()
        .iter()
        .map(|(_, t)| t.shape().iter().product::<usize>())
        .sum()
}

/// Names, types and shapes: everything but the trained values.
fn layout(file: &Path) -> BTreeMap<String, (Dtype, Vec<usize>)> {
    let bytes = fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, t)| (name, (t.dtype(), t.shape().to_vec()))).collect()
}

#[test]
fn the_shipped_checkouts_are_the_recipe_s_but_for_their_training() {
    for name in ["teacher", "student"] {
        let (out, shipped) = (tempfile::tempdir().unwrap(), toy().join(name));
        write(&manifest(), name, out.path()).unwrap();
        for file in fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()) {
            let (made, shipped) = (out.path().join(&file), shipped.join(&file));
            if file == "model.safetensors" {
                assert_eq!(layout(&made), layout(&shipped), "{name}");
            } else {
                assert!(fs::read(made).unwrap() == fs::read(shipped).unwrap(), "{name}: {file:?}");
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_weights() {
    let made = || {
        let out = tempfile::tempdir().unwrap();
        write(&manifest(), "student", out.path()).unwrap();
        fs::read(out.path().join("model.safetensors")).unwrap()
    };
    assert!(made() == made());
}

#[test]
fn the_shipped_teacher_is_at_most_8_mb() {
    assert!(fs::metadata(toy().join("teacher/model.safetensors")).unwrap().len() <= 8_000_000);
}

#[test]
fn the_student_has_about_a_tenth_of_the_teacher() {
    let size = |name: &str| num_parameters(&toy().join(name).join("model.safetensors")) as f64;
    let ratio = size("teacher") / size("student");
    assert!((8.0..=12.0).contains(&ratio), "{ratio}");
}

#[test]
fn an_unknown_model_is_an_error_that_lists_the_known_ones() {
    let out = tempfile::tempdir().unwrap();
    let message = format!("{:#}", write(&manifest(), "pupil", out.path()).unwrap_err());
    assert!(message.contains("`pupil`") && message.contains("student"), "{message}");
}
