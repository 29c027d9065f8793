//! What a run writes as it goes: `metrics.jsonl`, the same scalars for TensorBoard, and `skipped.jsonl`, the samples left out.
//!
//! A checkpoint keeps how far each file had come. A run that goes on from it cuts off what follows and writes it again.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::append_file::AppendFile;
use super::metrics::{self, Row};
use super::tensorboard::EventWriter;
use crate::data::index::Skipped;

/// The list of samples left out, in a run's folder; none where every sample was used.
pub const SKIPPED: &str = "skipped.jsonl";

/// How far the files had come; what a checkpoint keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offsets {
    /// Bytes of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// Bytes of the event file.
    pub events_bytes: u64,
    /// Bytes of `skipped.jsonl`. Earlier checkpoints do not say: then all of it stays.
    #[serde(default = "whole")]
    pub skipped_bytes: u64,
}

fn whole() -> u64 {
    u64::MAX
}

/// Writes the three files.
#[derive(Debug)]
pub struct RunLog {
    metrics: AppendFile,
    events: EventWriter,
    /// Begun with the first sample that is left out.
    skipped: Option<AppendFile>,
    skipped_path: PathBuf,
}

impl RunLog {
    /// Opens the files of a run, cut to what a checkpoint vouches for.
    ///
    /// # Errors
    /// When a file cannot be written, or metrics are missing.
    pub fn open(dir: &Path, offsets: Offsets) -> Result<Self> {
        let (path, skipped_path) = (dir.join(metrics::FILE_NAME), dir.join(SKIPPED));
        let metrics = AppendFile::open(&path, offsets.metrics_bytes)?;
        if metrics.num_bytes() < offsets.metrics_bytes {
            bail!(
                "`{}` has {} bytes, and had {} when the run stopped\n\
                 hint: put the file back, or start anew in another --out",
                path.display(),
                metrics.num_bytes(),
                offsets.metrics_bytes
            );
        }
        let events = EventWriter::open(dir, offsets.events_bytes)?;
        let skipped = skipped_path.exists().then(|| AppendFile::open(&skipped_path, offsets.skipped_bytes));
        Ok(Self { metrics, events, skipped: skipped.transpose()?, skipped_path })
    }

    /// Adds a step to the metrics and the events.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn append(&mut self, row: &Row) -> Result<()> {
        let value = serde_json::to_value(row)?;
        self.metrics.append(format!("{value}\n").as_bytes())?;
        let fields = value.as_object().into_iter().flatten();
        let terms = value["method_terms"].as_object().into_iter().flatten();
        let tagged: Vec<(String, f64)> = fields
            .filter(|(name, _)| *name != "step")
            .chain(terms)
            .filter_map(|(name, value)| Some((format!("{}/{name}", row.stage.as_str()), value.as_f64()?)))
            .collect();
        let scalars: Vec<(&str, f64)> = tagged.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
        self.events.scalars(row.step as u64, &scalars)
    }

    /// Lists samples that could not be used.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn skip(&mut self, samples: &[Skipped]) -> Result<()> {
        if samples.is_empty() {
            return Ok(());
        }
        let mut lines = String::new();
        for sample in samples {
            lines += &serde_json::to_string(sample)?;
            lines.push('\n');
        }
        let file = match &mut self.skipped {
            Some(file) => file,
            none => none.insert(AppendFile::open(&self.skipped_path, 0)?),
        };
        file.append(lines.as_bytes())
    }

    /// Brings the files to the disk and says how far they are.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn sync(&self) -> Result<Offsets> {
        self.metrics.sync()?;
        self.events.sync()?;
        self.skipped.as_ref().map_or(Ok(()), AppendFile::sync)?;
        Ok(Offsets {
            metrics_bytes: self.metrics.num_bytes(),
            events_bytes: self.events.num_bytes(),
            skipped_bytes: self.skipped.as_ref().map_or(0, AppendFile::num_bytes),
        })
    }
}

#[cfg(test)]
mod tests;
