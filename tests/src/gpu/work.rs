//! How much there is to compute: operations and bytes of a teacher over samples, and the time that a device needs at least.

use std::path::Path;

use anyhow::{Context, Result};
use shared::dataset::{Message, Part, Role};
use shared::models::{Processor, config_of, expected_weights};

use super::Ceilings;

/// Multiplications and additions, and bytes between a device's memory and its cores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// 2 x weights x rows of the linear layers, and both products of attention over the pairs that see each other.
    pub operations: f64,
    /// Each weight once for each batch.
    pub bytes: f64,
}

impl Work {
    /// The least seconds that it takes: what the larger of its two needs does.
    pub fn floor_seconds(&self, ceilings: &Ceilings) -> f64 {
        (self.operations / ceilings.operations).max(self.bytes / ceilings.bytes)
    }

    /// `8.1 T operations, 30 GB, floor 0.010 s, 57 % of it`: a roofline line for what took `seconds`.
    pub fn roofline(&self, ceilings: &Ceilings, seconds: f64) -> String {
        let floor = self.floor_seconds(ceilings);
        format!(
            "{:.3} T operations, {:.2} GB, floor {floor:.3} s of {seconds:.3} s: {:.1} %",
            self.operations / 1e12,
            self.bytes / 1e9,
            100.0 * floor / seconds
        )
    }

    /// Its operations by what the device could have done in `seconds`.
    pub fn utilisation(&self, ceilings: &Ceilings, seconds: f64) -> f64 {
        self.operations / ceilings.operations / seconds
    }
}

/// What a Qwen2-VL does for a token, a patch, and the pairs of them that see each other.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Numbers in the decoder's linear layers.
    text: f64,
    /// In the vision encoder's, for each patch; its merger counts a quarter.
    vision: f64,
    /// Heads times their width times blocks, of the decoder and of the encoder.
    text_heads: f64,
    vision_heads: f64,
    /// Numbers in all weights.
    parameters: f64,
}

impl Costs {
    /// Of the checkout in `dir`.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn of(dir: &Path) -> Result<Costs> {
        let config = config_of(dir)?;
        let decoder = config.config.decoder();
        let mut costs = Costs {
            text: 0.0,
            vision: 0.0,
            text_heads: (decoder.num_layers * decoder.num_heads * decoder.head_dim) as f64,
            vision_heads: 0.0,
            parameters: 0.0,
        };
        for (name, shape) in expected_weights(&config)? {
            let numbers = shape.iter().product::<usize>() as f64;
            costs.parameters += numbers;
            match (name.as_str(), shape.len()) {
                (_, 0 | 1) => {}
                (name, _) if name.contains("visual.merger") => costs.vision += numbers / 4.0,
                (name, _) if name.contains("visual.") => costs.vision += numbers,
                (name, _) if name.contains("layers.") => costs.text += numbers,
                _ => {}
            }
            // One projection out of attention in each block, (E, E).
            if name.contains("visual.") && name.ends_with("attn.proj.weight") {
                costs.vision_heads += shape[0] as f64;
            }
        }
        Ok(costs)
    }

    /// Of `samples` that each have so many tokens and images of so many patches, in `batches` batches; `number_bytes` is the size of a weight.
    pub fn work(&self, samples: &[Sample], batches: f64, number_bytes: f64) -> Work {
        let mut operations = 0.0;
        for sample in samples {
            let tokens = sample.tokens as f64;
            // Two products; a token sees half of the others.
            operations += 2.0 * self.text * tokens + 2.0 * tokens * tokens * self.text_heads;
            for &patches in &sample.patches {
                let patches = patches as f64;
                operations += 2.0 * self.vision * patches + 4.0 * patches * patches * self.vision_heads;
            }
        }
        Work { operations, bytes: self.parameters * number_bytes * batches }
    }
}

/// Lengths of a sample.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its tokens.
    pub tokens: usize,
    /// Patches of each image.
    pub patches: Vec<usize>,
}

/// The rows of a dataset that [`make_data`](super::shape::make_data) wrote, as the checkout `dir` encodes them: those of the first
/// `distinct`, over and over.
///
/// # Errors
/// When a row cannot be encoded.
pub fn lengths(dir: &Path, data: &Path, images: &Path, distinct: usize) -> Result<Vec<Sample>> {
    let processor = Processor::load(dir)?;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(data)?)?;
    let encode = |row: &serde_json::Value| -> Result<Sample> {
        let said = |i: usize| row["conversations"][i]["value"].as_str().context("a row without text");
        let question = said(0)?.trim_start_matches("<image>\n").to_owned();
        let image = images.join(row["image"].as_str().context("a row without an image")?);
        let messages = [
            Message::new(Role::User, vec![Part::Image, Part::Text { text: question }]),
            Message::new(Role::Assistant, vec![Part::Text { text: said(1)?.to_owned() }]),
        ];
        let image = shared::image::decode(&std::fs::read(image)?)?;
        let encoded = processor.encode(&messages, &[image])?;
        let patches = encoded.images.iter().map(|image| image.grid.iter().product()).collect();
        Ok(Sample { tokens: encoded.prompt.input_ids.len(), patches })
    };
    let known = rows.iter().take(distinct).map(encode).collect::<Result<Vec<_>>>()?;
    Ok((0..rows.len()).map(|i| known[i % known.len()].clone()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn the_larger_need_is_the_floor() {
        let ceilings = Ceilings { operations: 100.0, bytes: 10.0 };
        let work = Work { operations: 200.0, bytes: 10.0 };
        assert_eq!(work.floor_seconds(&ceilings), 2.0);
        assert_eq!(Work { bytes: 50.0, ..work }.floor_seconds(&ceilings), 5.0);
        assert_eq!(work.utilisation(&ceilings, 4.0), 0.5);
        assert!(work.roofline(&ceilings, 4.0).ends_with("floor 2.000 s of 4.000 s: 50.0 %"));
    }

    #[test]
    fn operations_by_hand() {
        let costs = Costs { text: 10.0, vision: 3.0, text_heads: 2.0, vision_heads: 1.0, parameters: 50.0 };
        let sample = Sample { tokens: 4, patches: vec![2] };
        // Linear layers 2 * 10 * 4 and 2 * 3 * 2; attention 2 * 4 * 4 * 2 and 4 * 2 * 2 * 1.
        let work = costs.work(&[sample], 3.0, 2.0);
        assert_eq!(work, Work { operations: 80.0 + 12.0 + 64.0 + 16.0, bytes: 300.0 });
    }
}
