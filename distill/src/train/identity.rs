//! What a run is made from: two runs that agree in it produce the same bits.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use shared::ids::Fingerprint;
use shared::models::{self, Processor};
use toml::{Table, Value};

use super::checkpoint::{FORMAT_VERSION, publish_file, refuse_differences};
use crate::config::RunConfig;
use crate::data::mixture::Caches;

/// The identity, in a run's folder.
pub const IDENTITY: &str = "run.json";

/// What a run writes into its folder and reads again: there before the run's claim, it is somebody else's.
const OWN: [&str; 6] = ["config.toml", "metrics.jsonl", "checkpoints", "stages", "student", "summary.json"];

/// Keys that say where things lie or how fast they are read, not what is computed.
const IRRELEVANT: [&str; 16] = [
    "out",
    "cache",
    "student",
    "device",
    "data.sources",
    "data.mixture",
    "data.image_root",
    "data.memory_mib",
    "data.prefetch",
    "data.workers",
    "data.read",
    "checkpoint",
    "data.max_bad",
    "memory.recompute",
    "align.keep_student_features",
    // Its weights count: `aligned` adds them.
    "recalibrator.from",
];

/// The identity of a run, but for its samples.
///
/// # Errors
/// When the student cannot be read.
pub fn identity(
    config: &RunConfig,
    device: &Device,
    processor: &Processor,
    caches: Option<&Caches>,
) -> Result<Fingerprint> {
    let mut identity = Fingerprint::default();
    flatten(&mut identity, "", &Table::try_from(config)?);
    identity.insert("device", if device.is_cpu() { "cpu" } else { "cuda" });
    identity.insert("checkpoint format", FORMAT_VERSION);
    let student = models::identity(&config.student)?.into_iter().chain(processor.identity());
    identity.extend(student.map(|(field, value)| (format!("student {field}"), value)).collect());
    if let Some(caches) = caches {
        caches.identify(&mut identity);
    }
    Ok(identity)
}

fn flatten(identity: &mut Fingerprint, prefix: &str, table: &Table) {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        match value {
            _ if IRRELEVANT.contains(&name.as_str()) => {}
            Value::Table(inner) => flatten(identity, &format!("{name}."), inner),
            value => identity.insert(name, value),
        }
    }
}

/// Claims a run's folder: writes the identity, or compares with the one that is there.
///
/// # Errors
/// When the folder belongs to another run, naming each difference, is no run's, or cannot be written.
pub fn claim(out: &Path, identity: &Fingerprint) -> Result<()> {
    let path = out.join(IDENTITY);
    if !path.exists() {
        if let Some(name) = OWN.iter().find(|name| out.join(name).exists()) {
            bail!(
                "`{}` is no run and has a `{name}`, where a run keeps its own\nhint: choose another --out",
                out.display()
            );
        }
        return publish_file(&path, &serde_json::to_vec_pretty(identity)?);
    }
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let there: Fingerprint = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is damaged\nhint: choose another --out", path.display()))?;
    refuse_differences(out, &there, identity)
}
