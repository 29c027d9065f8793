//! One streaming pass over the datasets: sample key to messages and images.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use anyhow::{Result, bail};
use rayon::prelude::*;
use shared::dataset::{DatasetOptions, ImageSource, Message, Record, canonical_json, open};
use shared::ids::{Digest, SampleKey};

use super::spill::Spill;
use crate::config::DataConfig;

/// Rows hashed at a time, so that images are read in parallel.
const CHUNK: usize = 256;
/// Or fewer, once their images hold this much memory.
const CHUNK_BYTES: usize = 32 << 20;

/// A sample's messages and images, and where they were found.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Questions and answers in turn.
    pub messages: Vec<Message>,
    /// The images, in the order the messages use them.
    pub images: Vec<ImageSource>,
    /// File and row, for messages to the user.
    pub place: String,
}

/// A row that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// File and row, or the sample's key.
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Everything the datasets hold.
#[derive(Debug, Default)]
pub struct Index {
    /// By identity; of equal rows the first stays.
    pub samples: HashMap<SampleKey, Conversation>,
    /// Rows left out.
    pub skipped: Vec<Skipped>,
    /// Rows in all.
    pub num_rows: usize,
}

impl Index {
    /// Reads all sources once. Images are read to identify the samples, and not kept in memory: those that come inside rows
    /// move to a file in `out`, the run's folder.
    ///
    /// # Errors
    /// When a source cannot be read, more rows are unusable than `data.max_bad` allows, or the disk is full.
    pub fn build(config: &DataConfig, out: &Path, progress: &dyn Fn(usize)) -> Result<Self> {
        let options = DatasetOptions {
            image_root: config.image_root.clone(),
            prepend_image: config.prepend_image,
            ..DatasetOptions::default()
        };
        let mut index = Self::default();
        let mut spill = Spill::new(out);
        let (mut chunk, mut chunk_bytes) = (Vec::with_capacity(CHUNK), 0);
        for row in open(&config.sources, &options)? {
            index.num_rows += 1;
            match row? {
                Ok(record) => {
                    chunk_bytes += image_bytes(&record);
                    chunk.push(record);
                }
                Err(bad) => index
                    .skipped
                    .push(Skipped { place: format!("{} row {}", bad.source, bad.row), reason: bad.reason }),
            }
            if chunk.len() == CHUNK || chunk_bytes > CHUNK_BYTES {
                index.add(std::mem::take(&mut chunk), &mut spill)?;
                chunk_bytes = 0;
                progress(index.num_rows);
            }
        }
        index.add(chunk, &mut spill)?;
        spill.finish()?;
        check_budget(&index.skipped, index.skipped.len(), index.num_rows, config.max_bad)?;
        Ok(index)
    }

    fn add(&mut self, records: Vec<Record>, spill: &mut Spill) -> Result<()> {
        let identified: Vec<_> = records.into_par_iter().map(identify).collect();
        for item in identified {
            match item {
                Ok((key, mut conversation)) => {
                    if let Entry::Vacant(place) = self.samples.entry(key) {
                        spill.take(&mut conversation.images)?;
                        place.insert(conversation);
                    }
                }
                Err(skipped) => self.skipped.push(skipped),
            }
        }
        Ok(())
    }
}

/// What a row's images hold in memory.
fn image_bytes(record: &Record) -> usize {
    let held = |image: &ImageSource| if let ImageSource::Bytes(bytes) = image { bytes.len() } else { 0 };
    record.images.iter().map(held).sum()
}

fn identify(record: Record) -> Result<(SampleKey, Conversation), Skipped> {
    let place = format!("{} row {}", record.source, record.row);
    let digest = |image: &ImageSource| image.read().map(|bytes| Digest::of(&bytes));
    let digests: Result<Vec<Digest>, _> = record.images.iter().map(digest).collect();
    match digests {
        Ok(digests) => {
            let key = SampleKey::of(&canonical_json(&record.messages), &digests);
            Ok((key, Conversation { messages: record.messages, images: record.images, place }))
        }
        Err(error) => Err(Skipped { place, reason: error.to_string() }),
    }
}

/// Stops a run that would leave out much of its data.
///
/// # Errors
/// When `num_skipped`, of which `examples` are some, are more than the share `max_bad` of `num_samples`.
pub fn check_budget(
    examples: &[Skipped],
    num_skipped: usize,
    num_samples: usize,
    max_bad: f64,
) -> Result<()> {
    let allowed = (max_bad * num_samples as f64).ceil() as usize;
    let Some(example) = examples.first().filter(|_| num_skipped > allowed) else { return Ok(()) };
    bail!(
        "{num_skipped} of {num_samples} samples cannot be used, {allowed} are allowed; one of them: {}: {}\n\
         hint: mend the data, or raise `data.max_bad`",
        example.place,
        example.reason
    )
}
