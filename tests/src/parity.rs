//! One family's checkpoint against what transformers made of it: from image files and text to features.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use shared::image::decode;
use shared::models::{
    Encoded, LoadOptions, Model, PackedBatch, Processor, config_of, expected_weights, load,
};

use crate::reference::{Sample, samples, worst_error};

/// Features may differ by this much: float32 against float64 differs by up to 6e-5 in the reference checkpoints.
pub const TOLERANCE: f32 = 2e-4;

/// What was compared, and how it came out.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// How many samples there are.
    pub num_samples: usize,
    /// How many have equal token ids.
    pub ids_equal: usize,
    /// How many have equal pixel values, bit for bit.
    pub pixels_equal: usize,
    /// How many have equal grids and positions.
    pub positions_equal: usize,
    /// The largest difference of any feature value, over all samples and both weight files.
    pub worst_error: f32,
    /// How many checkpoints were compared: the single file, and the shards if there are any.
    pub num_checkpoints: usize,
    /// How many namings of the weights are read as this model's, and how many there are.
    pub namings: (usize, usize),
}

impl Comparison {
    /// Everything equal, and the features within the tolerance.
    pub fn passes(&self) -> bool {
        let equal = [self.ids_equal, self.pixels_equal, self.positions_equal];
        self.num_samples > 0
            && equal.iter().all(|&count| count == self.num_samples)
            && self.worst_error <= TOLERANCE
            && self.namings.0 == self.namings.1
    }
}

/// Compares every sample of the reference checkpoint in `dir`.
///
/// # Errors
/// When a file of the reference is missing or damaged.
pub fn compare(dir: &Path) -> Result<Comparison> {
    let processor = Processor::load(dir)?;
    let samples = samples(dir)?;
    let mut result =
        Comparison { num_samples: samples.len(), namings: namings(dir)?, ..Comparison::default() };
    let mut encoded = Vec::new();
    for sample in &samples {
        let ours = encode(&processor, sample)?;
        result.ids_equal += usize::from(ours.prompt.input_ids == sample.input_ids);
        result.pixels_equal += usize::from(pixels(&ours) == bits(&sample.pixels()?));
        let grids: Vec<_> = ours.images.iter().map(|image| image.grid).collect();
        let same_grids = sample.grids()?.is_none_or(|stored| stored == grids);
        result.positions_equal += usize::from(same_grids && ours.positions == sample.positions()?);
        encoded.push(ours);
    }
    for checkpoint in [dir.to_owned(), dir.join("sharded_bf16")].iter().filter(|path| path.exists()) {
        let options = LoadOptions::frozen(Device::Cpu, DType::F32);
        let model = load(checkpoint, &options)?;
        result.num_checkpoints += 1;
        for (sample, encoded) in samples.iter().zip(&encoded) {
            result.worst_error = result.worst_error.max(feature_error(&model, sample, encoded)?);
        }
    }
    Ok(result)
}

/// What our processor makes of a sample's image files and text.
///
/// # Errors
/// When it refuses them.
pub fn encode(processor: &Processor, sample: &Sample) -> Result<Encoded> {
    let images =
        sample.images.iter().map(|path| Ok(decode(&fs::read(path)?)?)).collect::<Result<Vec<_>>>()?;
    processor.encode(&sample.messages, &images).with_context(|| format!("sample `{}`", sample.name))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn pixels(encoded: &Encoded) -> Vec<u32> {
    encoded.images.iter().flat_map(|image| bits(&image.pixels)).collect()
}

/// Infinite where the number of tokens differs.
fn feature_error(model: &Model, sample: &Sample, encoded: &Encoded) -> Result<f32> {
    let ours = model.body.features(&PackedBatch::pack(&[encoded]))?;
    let theirs = sample.features()?;
    if ours.dims() != theirs.dims() {
        return Ok(f32::INFINITY);
    }
    let worst = worst_error(&ours, theirs)?;
    Ok(if worst.is_nan() { f32::INFINITY } else { worst })
}

/// Of the namings in ref/keys.json, how many mean exactly the weights that the configuration asks for.
fn namings(dir: &Path) -> Result<(usize, usize)> {
    let path = dir.join("ref/keys.json");
    if !path.exists() {
        return Ok((0, 0));
    }
    let listings: BTreeMap<String, Vec<String>> = serde_json::from_str(&fs::read_to_string(&path)?)?;
    let config = config_of(dir)?;
    let expected = expected_weights(&config)?;
    let expected: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
    let reads = |names: &Vec<String>| {
        let canonical: BTreeSet<_> = names.iter().map(|name| config.family.canonical_name(name)).collect();
        // A tied head may be listed as well.
        let tied_head = config.config.decoder().tie_word_embeddings.then_some(config.family.head);
        canonical
            .iter()
            .map(|name| &**name)
            .filter(|name| Some(*name) != tied_head)
            .eq(expected.iter().copied())
    };
    Ok((listings.values().filter(|names| reads(names)).count(), listings.len()))
}
