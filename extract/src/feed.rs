//! The reading thread: rows are identified, decoded and encoded on all cores ahead of the model, and leave as batches.
//!
//! Memory is bounded by one chunk of rows, the window of [`batch`](crate::batch) and the queue of batches, whatever the dataset's size.

use std::sync::mpsc::SyncSender;
use std::time::Instant;

use anyhow::Result;
use rayon::prelude::*;
use shared::cache::QuarantinedRow;
use shared::dataset::{Dataset, Record};
use shared::models::Processor;

use crate::batch::{BatchSize, Window};
use crate::config::Keep;
use crate::plan::{Plan, Work};
use crate::sample::{Identified, Limits, Prepared, identify, prepare, refused};
use crate::scope::Scope;
use crate::sink::Delivery;
use crate::stop::Stop;
use crate::tally::Tally;
use crate::units::MaxBad;

/// Batches that may wait for the model.
pub const QUEUE: usize = 2;

/// Everything the reading thread needs.
pub struct Feed<'a> {
    /// Where rows come from.
    pub dataset: Dataset,
    /// What to do with each.
    pub plan: Plan,
    /// Which of them the run is after.
    pub scope: &'a Scope,
    /// The teacher's template, tokenizer and image processing.
    pub processor: &'a Processor,
    /// What a sample may have at most.
    pub limits: Limits,
    /// Whether image files go into the cache.
    pub embed_images: bool,
    /// How large a batch may become.
    pub batch_size: BatchSize,
    /// Bad rows to tolerate.
    pub max_bad: MaxBad,
    /// Where rows are counted.
    pub tally: &'a Tally,
    /// When to end early.
    pub stop: &'a Stop,
    /// To the model.
    pub batches: SyncSender<Vec<Prepared>>,
    /// To the writer.
    pub deliveries: SyncSender<Delivery>,
}

/// The other end of a queue is gone: that thread has the reason.
struct Closed;

impl Feed<'_> {
    /// Reads the dataset to its end, or until a stop is raised or nobody takes the batches any more.
    ///
    /// # Errors
    /// When a source cannot be read on; the rows before that are still handed over.
    pub fn run(mut self) -> Result<()> {
        let mut window = Window::new(self.batch_size);
        let outcome = self.read(&mut window);
        while !self.stop.is_raised() {
            let batch = window.pop_batch();
            if batch.is_empty() || self.batches.send(batch).is_err() {
                break;
            }
        }
        outcome
    }

    fn read(&mut self, window: &mut Window) -> Result<()> {
        let rows_at_once = rayon::current_num_threads().max(4);
        while !self.stop.is_raised() {
            let mut rows = Vec::with_capacity(rows_at_once);
            let mut end = None;
            for row in self.dataset.by_ref().take(rows_at_once) {
                match row {
                    Ok(row) => rows.push(row.map_err(refused)),
                    Err(error) => end = Some(Err(error.into())),
                }
            }
            if rows.len() < rows_at_once {
                end = end.or(Some(Ok(())));
            }
            Tally::add(&self.tally.read, rows.len() as u64);
            self.tally.set_bytes(self.dataset.progress());
            let closed = self.take(rows, window).is_err();
            if let Some(end) = end {
                return end;
            }
            if closed {
                break;
            }
        }
        Ok(())
    }

    /// Takes some rows through identification, the plan and preparation into the window.
    fn take(&mut self, rows: Vec<Result<Record, QuarantinedRow>>, window: &mut Window) -> Result<(), Closed> {
        let identified: Vec<_> = rows.into_par_iter().map(|row| row.and_then(identify)).collect();
        let mut work = Vec::with_capacity(identified.len());
        for row in identified {
            work.extend(self.plan(row)?);
        }
        let (processor, limits, embed) = (self.processor, self.limits, self.embed_images);
        let tally = self.tally;
        let prepare = |(row, keep)| {
            let start = Instant::now();
            let prepared = prepare(row, processor, limits, keep, embed);
            Tally::add_time(&tally.prepare_nanos, start);
            prepared
        };
        let prepared: Vec<_> = work.into_par_iter().map(prepare).collect();
        for sample in prepared {
            match sample {
                Ok(sample) if !self.scope.takes(sample.meta()) => Tally::add(&self.tally.not_owed, 1),
                Ok(sample) => window.push(sample),
                Err(row) => self.quarantine(row)?,
            }
            while window.is_full() {
                self.batches.send(window.pop_batch()).map_err(|_| Closed)?;
            }
        }
        Ok(())
    }

    /// The row with what to keep of it, if it is new.
    fn plan(
        &mut self,
        row: Result<Identified, QuarantinedRow>,
    ) -> Result<Option<(Identified, Keep)>, Closed> {
        let row = match row {
            Ok(row) => row,
            Err(row) if row.key.is_none() && !self.plan.reports(row.row) => {
                Tally::add(&self.tally.elsewhere, 1);
                return Ok(None);
            }
            Err(row) => return self.quarantine(row).map(|()| None),
        };
        match self.plan.decide(row.key) {
            Work::New(_) if !self.scope.names(&row.key) => Tally::add(&self.tally.not_owed, 1),
            Work::New(keep) => return Ok(Some((row, keep))),
            Work::Committed => Tally::add(&self.tally.committed, 1),
            Work::Elsewhere => Tally::add(&self.tally.elsewhere, 1),
            Work::Duplicate => Tally::add(&self.tally.duplicates, 1),
        }
        Ok(None)
    }

    fn quarantine(&self, row: QuarantinedRow) -> Result<(), Closed> {
        if !self.scope.bad_rows {
            Tally::add(&self.tally.not_owed, 1);
            return Ok(());
        }
        self.tally.add_bad(self.max_bad, self.stop);
        self.deliveries.send(Delivery::Bad(row)).map_err(|_| Closed)
    }
}
