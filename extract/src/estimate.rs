//! `extract estimate`: what a run would give and cost, before anything is spent.
//!
//! Rows are counted; an even choice of them is prepared as a run would, which gives samples, tokens and positions; a few
//! of those go through the teacher, which gives the speed and some feature vectors. Then the real writer writes the chosen
//! samples, with these vectors in their positions, to a temporary folder under each codec. Everything scales with the rows.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};
use rayon::prelude::*;
use serde::Serialize;
use shared::cache::{
    CacheIdentity, CacheWriter, Codec, FeatureBlock, QuarantinedRow, Row, WriterOptions, free_bytes,
};
use shared::ids::SampleKey;

use crate::batch::{BatchSize, Window};
use crate::cli::RunArgs;
use crate::config::{Keep, RunConfig};
use crate::forward::Teacher;
use crate::passes::{Batch, Passes};
use crate::run::{self, TeacherFiles};
use crate::sample::{Identified, Prepared, identify, prepare, refused};
use crate::stream::Streamed;

/// Rows that are prepared at most.
const PREPARED_ROWS: u64 = 512;
/// The teacher runs until it has seen this many samples, or this long.
const PROBE_SAMPLES: usize = 24;
const PROBE_SECONDS: f64 = 20.0;
/// Raw feature bytes that are written under each codec at most.
const WRITTEN_BYTES: usize = 64 << 20;

/// What a run would give.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Rows of the dataset, counted.
    pub rows: u64,
    /// Rows that were prepared; all numbers below are theirs, scaled.
    pub prepared: u64,
    /// Samples; a cache has each once.
    pub samples: u64,
    /// Rows for the quarantine.
    pub quarantined: u64,
    /// Teacher tokens of all samples.
    pub tokens: u64,
    /// Positions with features.
    pub feature_rows: u64,
    /// Bytes of all shards and their number, by codec.
    pub codecs: BTreeMap<&'static str, Size>,
    /// The codec of the run.
    pub codec: &'static str,
    /// How fast this teacher is on this machine.
    pub tokens_per_second: f64,
    /// Tokens by that speed.
    pub hours: f64,
    /// Room where the cache would be.
    pub free_bytes: u64,
}

/// What a codec makes of the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Bytes of all shards.
    pub bytes: u64,
    /// How many shards these are.
    pub files: u64,
}

/// Estimates the run that the same arguments would make.
///
/// # Errors
/// When something of the teacher or the dataset cannot be used, or the temporary folder is full.
pub fn estimate(args: &RunArgs) -> Result<Estimate> {
    let args = RunArgs { out: args.out.clone().or_else(|| Some(".".into())), ..args.clone() };
    let config = RunConfig::decide(&args)?;
    let files = TeacherFiles::open(&config)?;
    let rows = run::open_dataset(&config)?.count() as u64;
    let chosen = Chosen::new(&config, &files, rows)?;
    let prepared = chosen.rows;
    let scale = |count: u64| (count as f64 * rows as f64 / prepared.max(1) as f64).round() as u64;
    let (tokens, feature_rows) =
        (chosen.sum(Prepared::num_tokens), chosen.sum(|sample| sample.positions().len()));
    let (samples, quarantined) = (chosen.samples.len() as u64, chosen.quarantined);
    let probe = Probe::run(&config, &files, &chosen.samples)?;
    let written = chosen.written(&files, &probe.pool)?;
    let tokens_per_second = probe.tokens_per_second;
    let shard_bytes = config.settings.cache.shard_size.0;
    let size = |codec: Codec| -> Result<(&'static str, Size)> {
        let rehearsed = rehearse(&config, &files, &written, codec)?;
        let bytes = rehearsed.bytes as f64 * scale(samples) as f64 / written.len().max(1) as f64;
        // A shard ends with the row that fills it: only several show how large they become.
        let shard_bytes = match rehearsed.files {
            0 | 1 => shard_bytes as f64,
            files => rehearsed.bytes as f64 / files as f64,
        };
        let size = Size { bytes: bytes.round() as u64, files: (bytes / shard_bytes).ceil() as u64 };
        Ok((codec.name(), size))
    };
    let hours = scale(tokens) as f64 / tokens_per_second / 3600.0;
    Ok(Estimate {
        rows,
        prepared,
        samples: scale(samples),
        quarantined: scale(quarantined),
        tokens: scale(tokens),
        feature_rows: scale(feature_rows),
        codecs: Codec::all().map(size).collect::<Result<_>>()?,
        codec: config.settings.features.codec.name(),
        tokens_per_second,
        hours: if hours.is_finite() { hours } else { 0.0 },
        free_bytes: free_bytes(existing(&config.out))?,
    })
}

/// The nearest folder that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."))
}

/// An even choice of the dataset's rows, prepared.
struct Chosen {
    rows: u64,
    quarantined: u64,
    samples: Vec<Prepared>,
}

impl Chosen {
    fn new(config: &RunConfig, files: &TeacherFiles, rows: u64) -> Result<Chosen> {
        let taken = rows.min(PREPARED_ROWS);
        // Row n is taken when n * taken / rows reaches the next whole number.
        let is_taken = |n: u64| n * taken / rows.max(1) != (n + 1) * taken / rows.max(1);
        let chosen = run::open_dataset(config)?.zip(0..).filter(|(_, n)| is_taken(*n)).map(|(row, _)| row);
        let chosen = chosen.collect::<Result<Vec<_>, _>>()?;
        let identified: Vec<Result<Identified, QuarantinedRow>> =
            chosen.into_par_iter().map(|row| row.map_err(refused).and_then(identify)).collect();
        let mut keys: Vec<SampleKey> = identified.iter().flatten().map(|row| row.key).collect();
        keys.sort_unstable();
        keys.dedup();
        // Keys are hashes, so the first of all are as large a share of these as of any others.
        let features = config.settings.features;
        let first = (features.all_for as u64 * taken).div_ceil(rows.max(1)).min(keys.len() as u64) as usize;
        let all_up_to = first.checked_sub(1).map(|last| keys[last]);
        let mut is_new: std::collections::BTreeSet<SampleKey> = keys.into_iter().collect();
        let unique: Vec<_> = identified
            .into_iter()
            .filter(|row| row.as_ref().map_or(true, |row| is_new.remove(&row.key)))
            .collect();
        let (limits, embed) = (files.limits(config), config.settings.cache.embed_images);
        let prepare = |row: Result<Identified, QuarantinedRow>| {
            let row = row?;
            let keep = if all_up_to.is_some_and(|last| row.key <= last) { Keep::All } else { features.keep };
            prepare(row, &files.processor, limits, keep, embed)
        };
        let prepared: Vec<_> = unique.into_par_iter().map(prepare).collect();
        let num_prepared = prepared.len();
        let samples: Vec<Prepared> = prepared.into_iter().flatten().collect();
        Ok(Chosen { rows: taken, quarantined: (num_prepared - samples.len()) as u64, samples })
    }

    fn sum(&self, count: impl Fn(&Prepared) -> usize) -> u64 {
        self.samples.iter().map(|sample| count(sample) as u64).sum()
    }

    /// Rows for the writer: an even choice of the samples that [`WRITTEN_BYTES`] has room for, with vectors of the pool.
    fn written(self, files: &TeacherFiles, pool: &[u8]) -> Result<Vec<Row>> {
        let row_bytes = files.config.config.decoder().hidden_size * files.dtype.size();
        let total = self.sum(|sample| sample.positions().len() * row_bytes).max(1);
        let (len, share) = (self.samples.len(), (WRITTEN_BYTES as f64 / total as f64).min(1.0));
        let wanted = ((len as f64 * share) as usize).max(len.min(16));
        let is_wanted = |n: usize| n * wanted / len.max(1) != (n + 1) * wanted / len.max(1);
        let mut vectors = pool.chunks_exact(row_bytes).cycle();
        let chosen = self.samples.into_iter().enumerate().filter(|(n, _)| is_wanted(*n));
        let row = |(_, sample): (usize, Prepared)| {
            let bytes = vectors.by_ref().take(sample.positions().len()).flatten().copied().collect();
            let width = files.config.config.decoder().hidden_size;
            sample.into_row(FeatureBlock { dtype: files.dtype, width, bytes })
        };
        Ok(chosen.map(row).collect())
    }
}

/// The teacher on a few samples.
struct Probe {
    tokens_per_second: f64,
    /// The feature vectors it gave, one after another.
    pool: Vec<u8>,
}

impl Probe {
    fn run(config: &RunConfig, files: &TeacherFiles, samples: &[Prepared]) -> Result<Probe> {
        let mut probe = Probe { tokens_per_second: 0.0, pool: Vec::new() };
        if samples.is_empty() {
            return Ok(probe);
        }
        let (teacher, size, budget) = match Streamed::open(config, files)? {
            Some(Streamed { teacher, budget, .. }) => (teacher, budget.batch_size(), Some(budget)),
            None => {
                let teacher = Teacher::load(files.weights(config))?;
                (teacher, BatchSize::of_tokens(config.settings.batch.max_tokens), None)
            }
        };
        let mut window = Window::new(size);
        let step = samples.len().div_ceil(PROBE_SAMPLES);
        samples.iter().step_by(step).for_each(|sample| window.push(sample.clone()));
        let batches = std::iter::from_fn(|| Some(window.pop_batch()).filter(|batch| !batch.is_empty()));
        let (started, mut rates) = (Instant::now(), Vec::new());
        for pass in Passes::new(batches, budget) {
            let tokens: usize = pass.iter().map(Batch::num_tokens).sum();
            let start = Instant::now();
            teacher.features(pass, |_, blocks| {
                blocks.iter().for_each(|block| probe.pool.extend(&block.bytes));
                Ok(true)
            })?;
            rates.push((tokens as f64, start.elapsed().as_secs_f64()));
            if started.elapsed().as_secs_f64() > PROBE_SECONDS {
                break;
            }
        }
        // The first batch also waits for the weights to be read.
        let timed = if rates.len() > 1 { &rates[1..] } else { &rates };
        let (tokens, seconds) = timed.iter().fold((0.0, 0.0), |sum, rate| (sum.0 + rate.0, sum.1 + rate.1));
        probe.tokens_per_second = tokens / seconds;
        Ok(probe)
    }
}

/// What the writer makes of these rows.
fn rehearse(config: &RunConfig, files: &TeacherFiles, rows: &[Row], codec: Codec) -> Result<Size> {
    let folder = tempfile::tempdir()?;
    let identity = run::identity(config, files)?;
    // Nothing is measured through the head: a rehearsal has no use for it.
    let identity = CacheIdentity { codec, head: Vec::new(), ..identity };
    let options = WriterOptions { keep_free: 0, part: Default::default(), ..run::writer_options(config) };
    let mut writer = CacheWriter::open(folder.path(), identity, options)?;
    for some in rows.chunks(64) {
        writer.append_batch(some.to_vec())?;
    }
    let manifest = writer.finish()?;
    Ok(Size { bytes: manifest.totals.bytes, files: manifest.shards.len() as u64 })
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rows, {} of them looked at: {} samples, {} bad rows",
            HumanCount(self.rows),
            HumanCount(self.prepared),
            HumanCount(self.samples),
            HumanCount(self.quarantined)
        )?;
        writeln!(f, "{} tokens, {} with features", HumanCount(self.tokens), HumanCount(self.feature_rows))?;
        for (codec, size) in &self.codecs {
            let chosen = if *codec == self.codec { " <- this run" } else { "" };
            writeln!(
                f,
                "{codec:9} {:>12} in {} shard(s){chosen}",
                HumanBytes(size.bytes).to_string(),
                size.files
            )?;
        }
        writeln!(f, "{:.2} hours at {:.0} tokens/s", self.hours, self.tokens_per_second)?;
        write!(f, "{} are free", HumanBytes(self.free_bytes))
    }
}
