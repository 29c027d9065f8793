//! What a run reports at its end: for people in a few lines, for scripts as one JSON object.

use std::fmt;

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;
use shared::cache::Manifest;
use shared::memory::peak_rss_bytes;

use crate::tally::Counts;

/// The summary of `extract run`. `samples` to `bytes` are of the whole cache, the rest is of this run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Samples in the cache.
    pub samples: u64,
    /// Bad rows that this run met.
    pub quarantined: u64,
    /// Teacher tokens of all samples.
    pub tokens: u64,
    /// Tokens that have features.
    pub feature_rows: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// From start to end, loading included.
    pub seconds: f64,
    /// Tokens of this run by the time since its first batch; 0 when there was nothing to do.
    pub tokens_per_second: f64,
    /// Seconds that workers spent on images and text ahead of the teacher, added up over them.
    pub prepare_seconds: f64,
    /// The share of the time since its first batch that the teacher waited for the next one.
    pub wait_share: f64,
    /// The share of that time that finished features waited for the writer.
    pub writer_share: f64,
    /// The share of that time that the device stood still between two passes, whatever for.
    pub idle_share: f64,
    /// The most resident memory of this process.
    pub peak_rss_bytes: Option<u64>,
    /// How it kept to a memory limit; none without one.
    pub streaming: Option<Streaming>,
    /// What the cache was made from.
    pub fingerprint: String,
    /// Samples that the cache had when the run began.
    pub resumed_from: u64,
    /// Rows read from the dataset.
    pub read: u64,
    /// Samples added by this run.
    pub written: u64,
    /// Rows that repeat a sample of an earlier row; a cache has each sample once.
    pub duplicates: u64,
    /// Rows that are left to the other parts.
    pub elsewhere: u64,
    /// Rows that neither the cache had nor a repair owed it.
    pub not_owed: u64,
    /// Whether the dataset was read to its end, by all parts.
    pub complete: bool,
}

/// A run whose teacher's blocks were read as they were needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Streaming {
    /// What `--memory-limit` allows the process.
    pub limit_bytes: u64,
    /// The most memory of this process that no file backs.
    pub peak_anonymous_bytes: Option<u64>,
    /// Bytes of the teacher's weights in the type it computes in.
    pub weight_bytes: u64,
    /// Tokens that a batch had room for.
    pub batch_tokens: usize,
    /// Tokens of the largest pass: the batches that went through each block together.
    pub pass_tokens: u64,
    /// Times that the weights were read.
    pub passes: u64,
}

impl Summary {
    /// Puts together what the cache and the counters say.
    pub fn new(manifest: &Manifest, counts: &Counts, resumed_from: u64, seconds: f64) -> Summary {
        let share = |seconds: f64| seconds / counts.teacher_seconds.max(f64::MIN_POSITIVE);
        Summary {
            samples: manifest.totals.samples,
            quarantined: counts.quarantined,
            tokens: manifest.totals.tokens,
            feature_rows: manifest.totals.feature_rows,
            bytes: manifest.totals.bytes,
            seconds,
            tokens_per_second: counts.tokens_per_second(),
            prepare_seconds: counts.prepare_seconds,
            wait_share: share(counts.wait_seconds),
            writer_share: share(counts.writer_seconds),
            idle_share: share(counts.idle_seconds),
            peak_rss_bytes: peak_rss_bytes(),
            streaming: None,
            fingerprint: manifest.fingerprint_digest.to_string(),
            resumed_from,
            read: counts.read,
            written: counts.written,
            duplicates: counts.duplicates,
            elsewhere: counts.elsewhere,
            not_owed: counts.not_owed,
            complete: manifest.complete,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known =
            self.read - self.written - self.quarantined - self.duplicates - self.elsewhere - self.not_owed;
        writeln!(
            f,
            "read {} rows: {} written, {known} already there, {} quarantined, {} duplicates",
            self.read, self.written, self.quarantined, self.duplicates
        )?;
        if self.elsewhere > 0 {
            writeln!(f, "{} rows are left to the other parts", self.elsewhere)?;
        }
        if self.not_owed > 0 {
            writeln!(f, "{} rows were not in the cache before, nor are they now", self.not_owed)?;
        }
        writeln!(
            f,
            "the cache has {} samples, {} tokens, {} of them with features, {}",
            HumanCount(self.samples),
            HumanCount(self.tokens),
            HumanCount(self.feature_rows),
            HumanBytes(self.bytes)
        )?;
        write!(f, "{:.1} seconds", self.seconds)?;
        if self.tokens_per_second > 0.0 {
            write!(f, ", {:.0} tokens/s", self.tokens_per_second)?;
            let (prepare, share) = (self.prepare_seconds, 100.0 * self.wait_share);
            write!(
                f,
                ", {prepare:.1} worker-seconds on images and text, {share:.1} % of the time waited for them"
            )?;
            let (idle, writer) = (100.0 * self.idle_share, 100.0 * self.writer_share);
            write!(
                f,
                ", the device stood still for {idle:.1} %, features waited for the writer for {writer:.1} %"
            )?;
        }
        if let Some(peak) = self.peak_rss_bytes {
            write!(f, ", at most {} of memory", HumanBytes(peak))?;
        }
        match &self.streaming {
            Some(streaming) => write!(f, "\n{streaming}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Streaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (weights, limit) = (HumanBytes(self.weight_bytes), HumanBytes(self.limit_bytes));
        write!(f, "{weights} of weights went by {} times in a limit of {limit}", self.passes)?;
        if let Some(peak) = self.peak_anonymous_bytes {
            let above = if peak > self.limit_bytes { ", which is MORE" } else { "" };
            write!(f, ", mapped files apart at most {}{above}", HumanBytes(peak))?;
        }
        let (pass, batch) = (HumanCount(self.pass_tokens), HumanCount(self.batch_tokens as u64));
        write!(f, "; up to {pass} tokens together, {batch} in a batch")
    }
}
