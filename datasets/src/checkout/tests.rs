//! Checkouts: sizes as promised, and the same bytes for the same seed.
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
fn the_teacher_fits_into_8_mb_and_the_student_has_about_a_tenth_of_it() {
    let made = |name: &str| {
        let out = tempfile::tempdir().unwrap();
        write(&manifest(), name, out.path()).unwrap();
        let file = out.path().join("model.safetensors");
        (fs::metadata(&file).unwrap().len(), num_parameters(&file) as f64)
    };
    let ((bytes, teacher), (_, student)) = (made("teacher"), made("student"));
    assert!(bytes <= 8_000_000, "{bytes} bytes");
    assert!((8.0..=12.0).contains(&(teacher / student)), "{teacher} / {student}");
}

#[test]
fn an_unknown_model_is_an_error_that_lists_the_known_ones() {
    let out = tempfile::tempdir().unwrap();
    let message = format!("{:#}", write(&manifest(), "pupil", out.path()).unwrap_err());
    assert!(message.contains("`pupil`") && message.contains("student"), "{message}");
}
