//! Features against transformers' own, stored beside a small checkpoint of each family.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::path::PathBuf;

use candle_core::{DType, Device};
use e2e::reference::{samples, worst_error};
use shared::models::{LoadOptions, PackedBatch, TrainableParts, load};

#[test]
fn smoke() {
    let Ok(root) = std::env::var("REF") else { return };
    for family in ["qwen2_vl", "internvl"] {
        for sub in ["", "sharded_bf16"] {
            let dir = PathBuf::from(&root).join(family);
            let options =
                LoadOptions { device: Device::Cpu, dtype: DType::F32, trainable: TrainableParts::none() };
            let model = load(&dir.join(sub), &options).unwrap();
            for sample in samples(&dir).unwrap() {
                let encoded = sample.stored_inputs(model.config.config.image_token_id()).unwrap();
                let features = model.body.features(&PackedBatch::pack(&[&encoded])).unwrap();
                println!(
                    "{family} {sub} {} {}",
                    sample.name,
                    worst_error(&features, sample.features().unwrap()).unwrap()
                );
            }
        }
    }
}
