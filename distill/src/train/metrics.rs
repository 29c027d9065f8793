//! One line a step in `metrics.jsonl`, and the same scalars for TensorBoard.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::tensorboard::EventWriter;
use crate::config::StageName;

/// The file's name in a run.
pub const FILE_NAME: &str = "metrics.jsonl";

/// Per-token means of the loss terms, in nats; absent where the stage has no such term.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Cross entropy of the teacher's answer through the Recalibrator and the teacher's head.
    pub ce_teacher: Option<f64>,
    /// Divergence from the teacher's own prediction, through the Recalibrator.
    pub kl: Option<f64>,
    /// Cross entropy of the regularisation pass, on the teacher's own question features.
    pub ce_regularisation: Option<f64>,
    /// Divergence of the regularisation pass.
    pub kl_regularisation: Option<f64>,
    /// Squared error of the regularisation pass, in place of the two where `loss.regulariser` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mse_regularisation: Option<f64>,
    /// Cross entropy of the student's answer through its own head.
    pub ce_student: Option<f64>,
    /// The loss of a method without a Recalibrator, per unit of its own (a token, a piece of text).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<f64>,
    /// That loss's terms by name, such as `kd`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub method_terms: BTreeMap<String, f64>,
}

/// One line of `metrics.jsonl`: one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The stage that the step belongs to.
    pub stage: StageName,
    /// Steps done in the whole run, this one included.
    pub step: usize,
    /// What was minimised: the weighted sum of the terms.
    pub loss: f64,
    /// What it was summed from, before the weights.
    #[serde(flatten)]
    pub terms: Terms,
    /// The held-out samples, when this step evaluated them.
    #[serde(flatten)]
    pub eval: EvalRow,
    /// Learning rate.
    pub lr: f64,
    /// Global norm of the gradient before it was cut.
    pub grad_norm: f64,
    /// Student tokens through the step a second, the wait for data included.
    pub tokens_per_second: f64,
    /// The most memory the process has held.
    pub peak_rss_bytes: u64,
    /// Share of the step's time spent waiting for data.
    pub loader_stall: f64,
}

/// Losses on the held-out samples, and the leakage controls: the same with the student's question features
/// exchanged between samples, and with zeros for them. How much they are worse is how much the student is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalRow {
    /// Cross entropy through the teacher's head.
    pub eval_ce_teacher: Option<f64>,
    /// Divergence from the teacher's prediction, through its head.
    pub eval_kl: Option<f64>,
    /// The student's own cross entropy.
    pub eval_ce_student: Option<f64>,
    /// The loss of a method without a Recalibrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_method: Option<f64>,
    /// `control_shuffled_ce + control_shuffled_kl`.
    pub control_shuffled: Option<f64>,
    /// Cross entropy with exchanged question features.
    pub control_shuffled_ce: Option<f64>,
    /// Divergence with exchanged question features.
    pub control_shuffled_kl: Option<f64>,
    /// `control_zeroed_ce + control_zeroed_kl`.
    pub control_zeroed: Option<f64>,
    /// Cross entropy with zeroed question features.
    pub control_zeroed_ce: Option<f64>,
    /// Divergence with zeroed question features.
    pub control_zeroed_kl: Option<f64>,
}

/// How far the files had come; what a checkpoint keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offsets {
    /// Bytes of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// Bytes of the event file.
    pub events_bytes: u64,
}

/// Writes both files.
#[derive(Debug)]
pub struct MetricsWriter {
    file: File,
    num_bytes: u64,
    events: EventWriter,
}

impl MetricsWriter {
    /// Opens the files of a run, cut to what a checkpoint vouches for.
    ///
    /// # Errors
    /// When a file cannot be written, or rows are missing.
    pub fn open(dir: &Path, offsets: Offsets) -> Result<Self> {
        let path = dir.join(FILE_NAME);
        let cannot = || format!("cannot write {}", path.display());
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let mut file = file.with_context(cannot)?;
        let num_bytes = file.metadata().with_context(cannot)?.len();
        if num_bytes < offsets.metrics_bytes {
            bail!(
                "`{}` has {num_bytes} bytes, and had {} when the run stopped\n\
                 hint: put the file back, or start anew in another --out",
                path.display(),
                offsets.metrics_bytes
            );
        }
        let cut = file.set_len(offsets.metrics_bytes);
        cut.and_then(|()| file.seek(SeekFrom::Start(offsets.metrics_bytes))).with_context(cannot)?;
        let events = EventWriter::open(dir, offsets.events_bytes)?;
        Ok(Self { file, num_bytes: offsets.metrics_bytes, events })
    }

    /// Appends a row to both files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn append(&mut self, row: &Row) -> Result<()> {
        let value = serde_json::to_value(row)?;
        let line = format!("{value}\n");
        self.file.write_all(line.as_bytes()).context("cannot write metrics.jsonl")?;
        self.num_bytes += line.len() as u64;
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

    /// Brings both files to the disk and says how far they are.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn sync(&mut self) -> Result<Offsets> {
        self.file.sync_data().context("cannot write metrics.jsonl")?;
        self.events.sync()?;
        Ok(Offsets { metrics_bytes: self.num_bytes, events_bytes: self.events.num_bytes() })
    }
}

/// The most memory this process has held, in bytes; 0 where the system does not tell.
#[must_use]
pub fn peak_rss_bytes() -> u64 {
    shared::memory::peak_rss_bytes().unwrap_or(0)
}

#[cfg(test)]
mod tests;
