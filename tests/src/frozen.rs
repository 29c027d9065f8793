//! Checkpoints as the tests of equality load them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use shared::models::{Encoded, LoadOptions, Model, PackedBatch, load};

use crate::reference::Sample;

/// On the CPU, nothing trained.
pub fn options(dtype: DType) -> LoadOptions {
    LoadOptions::frozen(Device::Cpu, dtype)
}

/// The checkpoint in float32.
pub fn frozen(dir: &Path) -> Model {
    load(dir, &options(DType::F32)).unwrap()
}

/// The inputs that are stored with the samples.
pub fn encoded(model: &Model, samples: &[Sample]) -> Vec<Encoded> {
    samples.iter().map(|sample| sample.stored_inputs(model).unwrap()).collect()
}

/// Features (T, D) of one sample alone.
pub fn features(model: &Model, sample: &Encoded) -> Tensor {
    model.body.features(&PackedBatch::pack(&[sample])).unwrap()
}
