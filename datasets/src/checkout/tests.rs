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
    SafeTensors::deserialize(&bytes).unwrap().tensors().iter().map(|(_, t)| t.shape().iter().product::<usize>()).sum()
}

#[test]
fn the_shipped_student_is_made_again_byte_for_byte() {
    let out = tempfile::tempdir().unwrap();
    write(&manifest(), "student", out.path()).unwrap();
    let shipped = toy().join("student");
    let mut names: Vec<_> = fs::read_dir(&shipped).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let mut made: Vec<_> = fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    made.sort();
    assert_eq!(names, made);
    for name in names {
        assert!(fs::read(shipped.join(&name)).unwrap() == fs::read(out.path().join(&name)).unwrap(), "{name:?}");
    }
}

#[test]
fn the_shipped_teacher_has_the_recipe_s_shape_and_is_at_most_8_mb() {
    let out = tempfile::tempdir().unwrap();
    write(&manifest(), "teacher", out.path()).unwrap();
    let (made, shipped) = (out.path().join("model.safetensors"), toy().join("teacher/model.safetensors"));
    let shapes = |file: &Path| -> BTreeMap<String, (Dtype, Vec<usize>)> {
        let bytes = fs::read(file).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        file.tensors().into_iter().map(|(name, t)| (name, (t.dtype(), t.shape().to_vec()))).collect()
    };
    assert_eq!(shapes(&made), shapes(&shipped));
    assert!(fs::metadata(&shipped).unwrap().len() <= 8_000_000);
    let config = |dir: &Path| fs::read_to_string(dir.join("config.json")).unwrap();
    assert_eq!(config(out.path()), config(&toy().join("teacher")));
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
