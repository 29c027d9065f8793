//! The collecting thread: waits for the features of each batch, brings them to the processor and hands them to the writer, while
//! the device works on the next batch.

use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Instant;

use anyhow::Result;
use shared::cache::{FeatureBlock, FeatureDtype};
use shared::models::Moment;

use crate::forward::{Started, is_finite};
use crate::sample::Prepared;
use crate::sink::Delivery;
use crate::stop::Stop;
use crate::tally::Tally;
use crate::units::MaxBad;

/// Batches that may wait for it: none beside the one in its hands, while the device has the next. More would only take memory.
pub const QUEUE: usize = 0;

/// Everything the collecting thread needs.
pub struct Collector<'a> {
    /// What features are stored in.
    pub dtype: FeatureDtype,
    /// Bad rows to tolerate.
    pub max_bad: MaxBad,
    /// Where rows and time are counted.
    pub tally: &'a Tally,
    /// When to end early.
    pub stop: &'a Stop,
    /// To the writer.
    pub deliveries: SyncSender<Delivery>,
}

impl Collector<'_> {
    /// Collects until the device's thread has no more, or nobody takes what is delivered.
    ///
    /// # Errors
    /// When the device fails.
    pub fn run(self, batches: Receiver<Started>) -> Result<()> {
        let (mut tokens, mut idle_since) = (0, None::<Moment>);
        for started in batches {
            let blocks = started.blocks()?;
            let Started { samples, begin, asked, is_last, .. } = started;
            if let (Some(begin), Some(since)) = (begin, idle_since.take()) {
                self.tally.add_idle(since.seconds_to(&begin)?);
            }
            tokens += samples.iter().map(Prepared::num_tokens).sum::<usize>() as u64;
            if is_last {
                self.tally.add_pass(std::mem::take(&mut tokens));
                idle_since = Some(asked);
            }
            let before = Instant::now();
            let is_open = self.deliver(samples, blocks);
            Tally::add_time(&self.tally.writer_nanos, before);
            if !is_open {
                break;
            }
        }
        Ok(())
    }

    /// Hands a batch over; whether the writer still takes deliveries.
    fn deliver(&self, samples: Vec<Prepared>, features: Vec<FeatureBlock>) -> bool {
        let mut rows = Vec::with_capacity(samples.len());
        for (sample, features) in samples.into_iter().zip(features) {
            if is_finite(&features) {
                rows.push(sample.into_row(features));
                continue;
            }
            let reason = format!("the teacher's features are not all finite in {}", self.dtype);
            self.tally.add_bad(self.max_bad, self.stop);
            if self.deliveries.send(Delivery::Bad(sample.into_quarantined(&reason))).is_err() {
                return false;
            }
        }
        self.deliveries.send(Delivery::Rows(rows)).is_ok()
    }
}
