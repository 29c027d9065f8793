//! What `make gpu-bench` measures: each part prints rows of a table that tests/gpu/bench.sh puts together.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use shared::models::Moment;

pub mod parity;
pub mod programs;
pub mod shape;
mod weights;
pub mod work;

/// A line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The figure, with its unit.
    pub value: String,
    /// What it is to be, or what it was beside.
    pub remark: String,
}

impl Row {
    /// A line.
    pub fn new(what: impl Into<String>, value: impl Into<String>, remark: impl Into<String>) -> Row {
        Row { what: what.into(), value: value.into(), remark: remark.into() }
    }

    /// As bench.sh reads it: fields between tabs.
    pub fn line(&self) -> String {
        [&self.what, &self.value, &self.remark].map(|field| field.replace(['\t', '\n'], " ")).join("\t")
    }
}

/// What a device can do at most, as measured on it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ceilings {
    /// Multiplications and additions a second, in a large matrix product of the compute type.
    pub operations: f64,
    /// Bytes a second, read and written, in a large copy on the device.
    pub bytes: f64,
}

impl Ceilings {
    /// Measures them: products and copies that fill a GPU, or small ones on a CPU.
    ///
    /// # Errors
    /// When the device fails.
    pub fn measure(device: &Device) -> Result<Ceilings> {
        let (side, numbers) = if device.is_cpu() { (384, 1 << 22) } else { (8192, 1 << 29) };
        let dtype = compute_type(device);
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, device)?.to_dtype(dtype);
        let (a, b) = (random(&[side, side])?, random(&[side, side])?);
        let product = median_seconds(device, || a.matmul(&b))?;
        let large = Tensor::ones(numbers, dtype, device)?;
        let copy = median_seconds(device, || large.copy())?;
        Ok(Ceilings {
            operations: 2.0 * (side as f64).powi(3) / product,
            bytes: 2.0 * (numbers * dtype.size_in_bytes()) as f64 / copy,
        })
    }

    /// Those that an earlier part kept.
    ///
    /// # Errors
    /// When it did not.
    pub fn load(folder: &Path) -> Result<Ceilings> {
        let path = folder.join("ceilings.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("no `{}`", path.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Keeps them for the parts that come after.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        Ok(std::fs::write(folder.join("ceilings.json"), serde_json::to_string(self)?)?)
    }
}

/// The type that a device computes in.
pub fn compute_type(device: &Device) -> DType {
    if device.is_cpu() { DType::F32 } else { DType::BF16 }
}

/// The median of ten times, after two that do not count.
fn median_seconds(device: &Device, mut run: impl FnMut() -> candle_core::Result<Tensor>) -> Result<f64> {
    let mut seconds = Vec::new();
    for _ in 0..12 {
        let before = Moment::now(device)?;
        run()?;
        seconds.push(before.seconds_to(&Moment::now(device)?)?);
    }
    let mut counted = seconds.split_off(2);
    counted.sort_by(f64::total_cmp);
    Ok(counted[counted.len() / 2].max(f64::MIN_POSITIVE))
}

/// The rows of the part `ceilings`.
///
/// # Errors
/// When the device fails or the folder cannot be written.
pub fn ceilings(device: &Device, folder: &Path) -> Result<Vec<Row>> {
    let ceilings = Ceilings::measure(device)?;
    ceilings.save(folder)?;
    let dtype = compute_type(device).as_str();
    Ok(vec![
        Row::new(
            format!("matrix product, {dtype}"),
            format!("{:.2} T operations/s", ceilings.operations / 1e12),
            "the ceiling of what follows",
        ),
        Row::new("copy on the device", format!("{:.0} GB/s", ceilings.bytes / 1e9), "read and written"),
    ])
}
