//! The student: a checkout loaded with a stage's parts trainable, and written out again.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use safetensors::Dtype;
use shared::models::{Checkpoint, LoadOptions, Model, TrainableParts, config_of, export_checkout, load};

use crate::config::LoraConfig;
use crate::lora;
use crate::stage::Stage;
use crate::train::optim::Param;

/// Names of the student's weights in a run start with this.
const PREFIX: &str = "student.";

/// Loads a checkout for a stage, to be computed in `dtype`; what trains is float32.
///
/// # Errors
/// When the checkout is damaged or of an unknown architecture.
pub fn open(dir: &Path, stage: &Stage, device: &Device, dtype: DType) -> Result<Model> {
    let trainable = TrainableParts::of(&stage.student);
    Ok(load(dir, &LoadOptions { trainable, ..LoadOptions::frozen(device.clone(), dtype) })?)
}

/// What trains, under the names of a run.
#[must_use]
pub fn params(model: &Model) -> Vec<Param> {
    let named = model.params.iter();
    named.map(|(name, param)| Param { name: format!("{PREFIX}{name}"), var: param.var.clone() }).collect()
}

/// Writes the student as a checkout of `dtype`, or of the types that `base` has; adapters of `lora` are merged.
///
/// # Errors
/// When the folder exists or cannot be written.
pub fn export(
    base: &Path,
    out: &Path,
    params: &[Param],
    dtype: Option<DType>,
    lora: Option<&LoraConfig>,
) -> Result<()> {
    let trained = params
        .iter()
        .filter_map(|param| Some((param.name.strip_prefix(PREFIX)?.to_owned(), param)))
        .map(|(name, param)| (name, param.var.as_detached_tensor()));
    Ok(export_checkout(base, out, &lora::replacements(trained, lora)?, dtype)?)
}

/// The type most of a checkout's values are stored in.
///
/// # Errors
/// When the checkout cannot be read.
pub fn stored_dtype(dir: &Path) -> Result<DType> {
    let config = config_of(dir)?;
    let checkpoint = Checkpoint::open(dir, config.family)?;
    let mut sizes: BTreeMap<&str, (usize, DType)> = BTreeMap::new();
    for entry in checkpoint.entries().values() {
        let (name, dtype) = match entry.dtype {
            Dtype::F16 => ("f16", DType::F16),
            Dtype::BF16 => ("bf16", DType::BF16),
            _ => ("f32", DType::F32),
        };
        sizes.entry(name).or_insert((0, dtype)).0 += entry.shape.iter().product::<usize>();
    }
    let largest = sizes.into_values().max_by_key(|(size, _)| *size);
    largest.map(|(_, dtype)| dtype).context("the student has no weights")
}
