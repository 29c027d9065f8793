//! How much there is to compute: operations and bytes of a teacher over samples, and the time that a device needs at least.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use shared::dataset::{Message, Part, Role};
use shared::image::ImageInput;
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

/// What a Qwen2-VL or an InternVL does for a token, a patch, and the pairs of them that see each other.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Numbers in the decoder's linear layers.
    text: f64,
    /// In the vision encoder's, for each patch.
    vision: f64,
    /// In those between the two, for each token of an image.
    merger: f64,
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
            merger: 0.0,
            text_heads: (decoder.num_layers * decoder.num_heads * decoder.head_dim) as f64,
            vision_heads: 0.0,
            parameters: 0.0,
        };
        for (name, shape) in expected_weights(&config)? {
            let numbers = shape.iter().product::<usize>() as f64;
            costs.parameters += numbers;
            match (name.as_str(), shape.len()) {
                // Biases and norms; positions and the CLS token of an InternVL.
                (_, 0 | 1 | 3) => {}
                (name, _) if contains(name, ["visual.merger", "multi_modal_projector."]) => {
                    costs.merger += numbers;
                }
                (name, _) if contains(name, ["visual.", "vision_tower."]) => costs.vision += numbers,
                (name, _) if name.contains("layers.") => costs.text += numbers,
                _ => {}
            }
            // One projection out of attention in each block, (E, E).
            if contains(&name, ["attn.proj.weight", "attention.projection_layer.weight"]) {
                costs.vision_heads += shape[0] as f64;
            }
        }
        Ok(costs)
    }

    /// Of `samples` in `batches` batches; `number_bytes` is the size of a weight.
    pub fn work(&self, samples: &[Sample], batches: f64, number_bytes: f64) -> Work {
        let mut operations = 0.0;
        for sample in samples {
            let tokens = sample.tokens as f64;
            // Two products; a token sees half of the others.
            operations += 2.0 * self.text * tokens + 2.0 * tokens * tokens * self.text_heads;
            operations += 2.0 * self.merger * sample.image_tokens as f64;
            for &patches in &sample.patches {
                let patches = patches as f64;
                operations += 2.0 * self.vision * patches + 4.0 * patches * patches * self.vision_heads;
            }
        }
        Work { operations, bytes: self.parameters * number_bytes * batches }
    }
}

fn contains(name: &str, parts: [&str; 2]) -> bool {
    parts.iter().any(|part| name.contains(part))
}

/// Lengths of a sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its tokens.
    pub tokens: usize,
    /// Those of them that are its images'.
    pub image_tokens: usize,
    /// Patches that see each other: of each image, or of each tile with its CLS token.
    pub patches: Vec<usize>,
}

/// The patches of an image that see each other, where a tile has `per_tile`.
fn patches(image: &ImageInput, per_tile: usize) -> Vec<usize> {
    match image.shape[..] {
        [tiles, _, _, _] => vec![per_tile + 1; tiles],
        _ => vec![image.grid.iter().product()],
    }
}

/// Patches of a tile, for models that have tiles.
fn patches_of_tile(dir: &Path) -> Result<usize> {
    let config: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("config.json"))?)?;
    let sides =
        |key: &str| config["vision_config"][key].as_array().into_iter().flatten().filter_map(Value::as_u64);
    let patches: u64 =
        sides("image_size").zip(sides("patch_size")).map(|(image, patch)| image / patch).product();
    Ok(usize::try_from(patches)?)
}

/// The rows of a dataset that [`make_data`](super::shape::make_data) wrote, as the checkout `dir` encodes them: those of the first
/// `distinct`, over and over.
///
/// # Errors
/// When a row cannot be encoded.
pub fn lengths(dir: &Path, data: &Path, images: &Path, distinct: usize) -> Result<Vec<Sample>> {
    let (processor, per_tile) = (Processor::load(dir)?, patches_of_tile(dir)?);
    let rows: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(data)?)?;
    let encode = |row: &Value| -> Result<Sample> {
        let said = |i: usize| row["conversations"][i]["value"].as_str().context("a row without text");
        let question = said(0)?.trim_start_matches("<image>\n").to_owned();
        let image = images.join(row["image"].as_str().context("a row without an image")?);
        let messages = [
            Message::new(Role::User, vec![Part::Image, Part::Text { text: question }]),
            Message::new(Role::Assistant, vec![Part::Text { text: said(1)?.to_owned() }]),
        ];
        let image = shared::image::decode(&std::fs::read(image)?)?;
        let encoded = processor.encode(&messages, &[image])?;
        Ok(Sample {
            tokens: encoded.prompt.input_ids.len(),
            image_tokens: encoded.images.iter().map(|image| image.num_tokens).sum(),
            patches: encoded.images.iter().flat_map(|image| patches(image, per_tile)).collect(),
        })
    };
    let known = rows.iter().take(distinct).map(encode).collect::<Result<Vec<_>>>()?;
    Ok((0..rows.len()).map(|i| known[i % known.len()].clone()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::gpu::shape::{Cut, Size, make_data};

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
        let costs = Costs {
            text: 10.0,
            vision: 3.0,
            merger: 5.0,
            text_heads: 2.0,
            vision_heads: 1.0,
            parameters: 50.0,
        };
        let sample = Sample { tokens: 4, image_tokens: 1, patches: vec![2] };
        // Linear layers 2 * 10 * 4, 2 * 5 * 1 and 2 * 3 * 2; attention 2 * 4 * 4 * 2 and 4 * 2 * 2 * 1.
        let work = costs.work(&[sample], 3.0, 2.0);
        assert_eq!(work, Work { operations: 80.0 + 10.0 + 12.0 + 64.0 + 16.0, bytes: 300.0 });
    }

    #[test]
    fn costs_of_both_families_by_hand() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let folder = tempfile::tempdir().unwrap();
        // Two blocks of width 64 with heads of 32, one of them for keys and values, and a feed-forward of 128.
        let text = 2.0 * (2.0 * 64.0 * 64.0 + 2.0 * 64.0 * 32.0 + 3.0 * 64.0 * 128.0);
        // Two of width 32 and a feed-forward of 128, over patches of 14 x 14 x 3; Qwen2-VL's have two frames.
        let encoder = |frames: f64| 588.0 * frames * 32.0 + 2.0 * (4.0 * 32.0 * 32.0 + 2.0 * 32.0 * 128.0);
        // A row is four patches wide; a merger has that width inside as well.
        for (size, frames, merger) in [
            (Size::Tiny, 2.0, 128.0 * 128.0 + 128.0 * 64.0),
            (Size::TinyInternVl, 1.0, 128.0 * 64.0 + 64.0 * 64.0),
        ] {
            size.make_checkout(&fixtures, folder.path(), Cut::default()).unwrap();
            let costs = Costs::of(folder.path()).unwrap();
            let found = [costs.text, costs.vision, costs.merger, costs.text_heads, costs.vision_heads];
            assert_eq!(found, [text, encoder(frames), merger, 128.0, 64.0], "{size:?}");
        }
    }

    #[test]
    fn a_tile_sees_itself() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let folder = tempfile::tempdir().unwrap();
        Size::TinyInternVl.make_checkout(&fixtures, folder.path(), Cut::default()).unwrap();
        let data = make_data(folder.path(), 4).unwrap();
        let samples = lengths(folder.path(), &data, &fixtures.join("images"), 4).unwrap();
        // 45 x 34, 30 x 30, 19 x 47 and 53 x 22 pixels: one tile, one, three and two; a thumbnail where there are several.
        let tiles: Vec<usize> = samples.iter().map(|sample| sample.patches.len()).collect();
        assert_eq!(tiles, [1, 1, 4, 3]);
        for sample in samples {
            assert!(sample.patches.iter().all(|patches| *patches == 17), "4 x 4 and the CLS token");
            assert_eq!(sample.image_tokens, 4 * sample.patches.len());
        }
    }
}
