//! The fixtures of all families on a device, in its compute type, beside what transformers made of them in float32.

use std::path::Path;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use shared::models::{Encoded, LoadOptions, Model, PackedBatch, load};

use super::{Row, compute_type};
pub use crate::reference::CHECKPOINTS;
use crate::reference::{Sample, samples};

/// bfloat16 rounds at 2^-8; random weights carry that from block to block. Features may be this far from transformers' float32 ones, relative L2, or
/// this many times as far as our plain twins in bfloat16 are on a CPU.
const FAR: f64 = 0.05;
const TIMES: f64 = 2.0;

/// Relative L2 distances of a checkpoint's features.
#[derive(Clone, Copy, Debug, Default)]
pub struct Distances {
    /// The device's from the reference.
    pub device: f64,
    /// The plain twins' in bfloat16 on a CPU, from the reference.
    pub plain: f64,
    /// A batch of all samples from each sample alone, both on the device.
    pub packed: f64,
}

impl Distances {
    /// Whether the device is as near as it should be, to the reference and to itself.
    pub fn pass(&self) -> bool {
        let allowed = FAR.max(TIMES * self.plain);
        self.device <= allowed && self.packed <= allowed
    }
}

/// The row of one checkpoint of the fixtures; one that fails says nothing about the others.
pub fn row(device: &Device, fixtures: &Path, name: &str) -> Row {
    let what = format!("parity {name}");
    match distances(device, &fixtures.join(name)) {
        Ok(distances) => {
            let Distances { device: far, plain, packed } = distances;
            Row::new(
                what,
                format!("{far:.1e}  {}", if distances.pass() { "pass" } else { "FAIL" }),
                format!(
                    "rel. L2 from transformers' float32; bf16 by plain twins on a CPU {plain:.1e}; packed from alone {packed:.1e}"
                ),
            )
        }
        Err(error) => Row::new(what, "FAILED", format!("{error:#}").lines().next().unwrap_or_default()),
    }
}

/// Compares one checkpoint.
///
/// # Errors
/// When it cannot be read or the device fails.
pub fn distances(device: &Device, dir: &Path) -> Result<Distances> {
    let samples = samples(dir)?;
    let on = |device: &Device, dtype| load(dir, &LoadOptions::frozen(device.clone(), dtype));
    let model = on(device, compute_type(device))?;
    let alone = each(&model, &samples)?;
    let plain = each(&on(&Device::Cpu, DType::BF16)?, &samples)?;
    let expected = samples.iter().map(|sample| Ok(sample.features()?.clone())).collect::<Result<Vec<_>>>()?;
    let expected = Tensor::cat(&expected, 0)?;
    let (together, chosen) = distinct(&model, &samples)?;
    let packed = model.body.features(&PackedBatch::pack(&together.iter().collect::<Vec<_>>()))?;
    let chosen: Vec<&Tensor> = chosen.iter().map(|&i| &alone[i]).collect();
    Ok(Distances {
        device: distance(&Tensor::cat(&alone, 0)?, &expected)?,
        plain: distance(&Tensor::cat(&plain, 0)?, &expected)?,
        packed: distance(&packed, &Tensor::cat(&chosen, 0)?)?,
    })
}

/// Samples of which no two share an image, and their numbers: a reference does not say how many tokens an image has, which packing
/// asks of one that is used twice.
fn distinct(model: &Model, samples: &[Sample]) -> Result<(Vec<Encoded>, Vec<usize>)> {
    let (mut together, mut chosen) = (Vec::<Encoded>::new(), Vec::new());
    for (i, sample) in samples.iter().enumerate() {
        let encoded = sample.stored_inputs(model)?;
        let is_there =
            |pixels: &[f32]| together.iter().flat_map(|other| &other.images).any(|o| o.pixels == pixels);
        if !encoded.images.iter().any(|image| is_there(&image.pixels)) {
            together.push(encoded);
            chosen.push(i);
        }
    }
    Ok((together, chosen))
}

/// Features of each sample, by itself.
fn each(model: &Model, samples: &[Sample]) -> Result<Vec<Tensor>> {
    let features = |sample: &Sample| -> Result<Tensor> {
        let encoded = sample.stored_inputs(model)?;
        Ok(model.body.features(&PackedBatch::pack(&[&encoded]))?)
    };
    samples.iter().map(features).collect()
}

/// ||a - b|| / ||b||, in float64 on the CPU.
fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let wide = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64);
    let (a, b) = (wide(a)?, wide(b)?);
    let norm = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
    Ok(norm(&(a - &b)?)? / norm(&b)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_and_far_do_not_pass() {
        let near = Distances { device: 0.01, plain: 0.01, packed: 0.01 };
        assert!(near.pass());
        assert!(!Distances { device: f64::NAN, ..near }.pass());
        assert!(!Distances { packed: 0.2, ..near }.pass());
        assert!(Distances { device: 0.15, plain: 0.1, ..near }.pass());
    }
}
