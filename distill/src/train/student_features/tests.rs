//! A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use candle_core::bail;
use shared::models::PackedBatch;

use super::*;
use crate::data::batch::Scored;

const WIDTH: usize = 3;

/// Samples of so many tokens each.
fn microbatch(samples: &[(u8, usize)]) -> Microbatch {
    let mut cu_seqlens = vec![0];
    samples.iter().for_each(|(_, rows)| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + rows));
    let num_tokens = cu_seqlens[cu_seqlens.len() - 1];
    let student = PackedBatch { cu_seqlens, input_ids: vec![0; num_tokens], ..PackedBatch::pack(&[]) };
    let keys = samples.iter().map(|(key, _)| SampleKey::from_bytes([*key; 16])).collect();
    Microbatch { keys, student, student_scored: Scored::default(), teacher: None }
}

/// Features that tell their sample and row.
fn features(samples: &[(u8, usize)]) -> Tensor {
    let value = |key: u8, i: usize| f32::from(key) + i as f32 * 0.1;
    let values: Vec<f32> =
        samples.iter().flat_map(|(key, rows)| (0..rows * WIDTH).map(|i| value(*key, i))).collect();
    let rows = values.len() / WIDTH;
    Tensor::from_vec(values, (rows, WIDTH), &Device::Cpu).unwrap()
}

fn open(dir: &Path, student: &str) -> StudentFeatures {
    let mut identity = Fingerprint::default();
    identity.insert("student weights", student);
    StudentFeatures::open(dir, &identity, WIDTH, (&Device::Cpu, DType::F32)).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asks for samples; whether they had to be computed.
fn ask(kept: &StudentFeatures, samples: &[(u8, usize)]) -> bool {
    let mut computed = false;
    let got = kept.of(&microbatch(samples), || {
        computed = true;
        Ok(features(samples))
    });
    assert_eq!(values(&got.unwrap()), values(&features(samples)));
    computed
}

#[test]
fn a_second_pass_computes_nothing_in_any_grouping() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("student_features");
    let kept = open(&dir, "a");
    assert!(ask(&kept, &[(1, 4), (2, 2)]));
    assert!(ask(&kept, &[(3, 5)]));
    for samples in [&[(3, 5), (1, 4)][..], &[(2, 2)], &[(2, 2), (3, 5), (1, 4)]] {
        assert!(!ask(&kept, samples));
    }
    assert!(ask(&kept, &[(1, 3)]), "another length is another encoding");
    drop(kept);
    assert!(!ask(&open(&dir, "a"), &[(3, 5), (2, 2)]), "they outlive the process");
    let failed = open(&dir, "a").of(&microbatch(&[(9, 1)]), || bail!("no device"));
    assert!(failed.unwrap_err().to_string().contains("no device"));
}

#[test]
fn another_student_a_cut_and_a_flipped_bit_are_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("student_features");
    ask(&open(&dir, "a"), &[(1, 4), (2, 2)]);
    assert!(ask(&open(&dir, "b"), &[(1, 4)]), "features of another student are not used");
    assert!(ask(&open(&dir, "a"), &[(1, 4), (2, 2)]));
    let path = dir.join("features.bin");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let kept = open(&dir, "a");
    assert!(!ask(&kept, &[(1, 4)]) && ask(&kept, &[(2, 2)]), "a record that is cut off is dropped");
    drop(kept);
    assert_eq!(fs::read(&path).unwrap(), whole);
    let mut flipped = whole;
    flipped[HEADER_BYTES + 1] ^= 1;
    fs::write(&path, flipped).unwrap();
    assert!(ask(&open(&dir, "a"), &[(1, 4)]), "values that do not fit their hash are not used");
}
