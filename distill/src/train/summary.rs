//! What a run says of itself at its end: `RUN/summary.json`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::metrics::{FILE_NAME, Row};
use crate::config::StageName;

/// The file in a run's folder; where it is, the run is done.
pub const SUMMARY: &str = "summary.json";

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The run's folder.
    pub run: PathBuf,
    /// The stages that the run consists of, in order.
    pub stages: Vec<StageName>,
    /// Samples that train.
    pub samples: usize,
    /// Steps done in all.
    pub steps: usize,
    /// The last step.
    pub last: Option<Row>,
    /// The last evaluation of each stage that has one.
    pub evaluations: Vec<Row>,
    /// Seconds of this call.
    pub seconds: f64,
    /// The most memory the process held.
    pub peak_rss_bytes: u64,
    /// The step this call continued from; absent for a fresh run.
    pub resumed_from: Option<usize>,
    /// The trained student.
    pub student: PathBuf,
}

/// What a finished run says of itself; `None` when it is not finished.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub fn read_summary(out: &Path) -> Result<Option<Summary>> {
    let path = out.join(SUMMARY);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is damaged", path.display()))
}

/// The steps of a run, from its metrics.
pub(super) fn read_rows(out: &Path) -> Result<Vec<Row>> {
    let path = out.join(FILE_NAME);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows = text.lines().map(serde_json::from_str::<Row>);
    rows.collect::<Result<_, _>>().with_context(|| format!("{} is damaged", path.display()))
}

/// The last evaluation of each stage that has one.
pub(super) fn last_evaluations(rows: &[Row]) -> Vec<Row> {
    let mut evaluations: Vec<Row> = Vec::new();
    for row in rows.iter().filter(|row| row.eval != Default::default()) {
        evaluations.retain(|earlier| earlier.stage != row.stage);
        evaluations.push(row.clone());
    }
    evaluations
}
