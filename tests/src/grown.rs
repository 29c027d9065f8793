//! A fixture's checkpoint at another size, with made-up weights: large enough for its memory to show.
#![allow(clippy::unwrap_used, reason = "serves tests alone, where a failed unwrap is a failed test")]

use std::collections::HashMap;
use std::fs;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use shared::models::{config_of, expected_weights};

use crate::damage::{copy_of, edit_config};

/// The fixture `name` with an edited config.json and float16 weights of its shapes; and how many numbers these are.
pub fn grown(name: &str, edit: impl FnOnce(&mut Value)) -> (tempfile::TempDir, usize) {
    let dir = copy_of(name);
    edit_config(dir.path(), edit);
    let shapes = expected_weights(&config_of(dir.path()).unwrap()).unwrap();
    let weights: HashMap<String, Tensor> =
        shapes.iter().zip(1u32..).map(|((name, shape), seed)| (name.clone(), made_up(shape, seed))).collect();
    let path = dir.path().join("model.safetensors");
    fs::remove_file(&path).unwrap();
    candle_core::safetensors::save(&weights, &path).unwrap();
    (dir, shapes.values().map(|shape| shape.iter().product::<usize>()).sum())
}

/// Norms around one, and matrices that keep the spread of what they are multiplied with: sines that repeat nowhere.
fn made_up(shape: &[usize], seed: u32) -> Tensor {
    let count = shape.iter().product::<usize>();
    let steps = Tensor::arange(0u32, count as u32, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    let waves = (steps * f64::from(seed).sqrt()).unwrap().sin().unwrap();
    let (spread, middle) = match shape {
        [_] => (0.1, 1.0),
        [_, inputs @ ..] => ((2.0 / inputs.iter().product::<usize>() as f64).sqrt(), 0.0),
        [] => (0.0, 0.0),
    };
    waves.affine(spread, middle).unwrap().reshape(shape).unwrap().to_dtype(DType::F16).unwrap()
}
