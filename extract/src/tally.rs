//! The run's counters. Every row that is read ends in exactly one of them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::stop::{Stop, StopReason};
use crate::units::MaxBad;

/// Counters that all threads share; totals of this run, not of the cache.
#[derive(Debug, Default)]
pub struct Tally {
    /// Rows read from the dataset, good or bad.
    pub read: AtomicU64,
    /// Rows whose sample the cache had before.
    pub committed: AtomicU64,
    /// Rows whose sample came earlier in this run.
    pub duplicates: AtomicU64,
    /// Rows that are another part's.
    pub elsewhere: AtomicU64,
    /// Rows that a repair does not owe.
    pub not_owed: AtomicU64,
    /// Rows in quarantine.
    pub quarantined: AtomicU64,
    /// Samples handed to the writer.
    pub written: AtomicU64,
    /// Tokens the teacher ran.
    pub tokens: AtomicU64,
    /// Times the teacher's weights were gone through.
    pub passes: AtomicU64,
    /// Tokens of the largest pass.
    pub largest_pass: AtomicU64,
    /// Nanoseconds that workers spent on decoding, resizing and tokenising, added up.
    pub prepare_nanos: AtomicU64,
    /// Nanoseconds that the teacher stood still for want of a batch, its first one apart.
    pub wait_nanos: AtomicU64,
    /// Nanoseconds that features stood still for want of room with the writer.
    pub writer_nanos: AtomicU64,
    /// Nanoseconds that the device stood still between two passes, whatever for.
    pub idle_nanos: AtomicU64,
    /// Bytes of the dataset files read.
    pub bytes_read: AtomicU64,
    /// Bytes of the dataset files in all.
    pub bytes_total: AtomicU64,
    /// When the teacher took its first batch.
    pub first_batch: OnceLock<Instant>,
}

/// A copy of the counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// See [`Tally::read`].
    pub read: u64,
    /// See [`Tally::committed`].
    pub committed: u64,
    /// See [`Tally::duplicates`].
    pub duplicates: u64,
    /// See [`Tally::elsewhere`].
    pub elsewhere: u64,
    /// See [`Tally::not_owed`].
    pub not_owed: u64,
    /// See [`Tally::quarantined`].
    pub quarantined: u64,
    /// See [`Tally::written`].
    pub written: u64,
    /// See [`Tally::tokens`].
    pub tokens: u64,
    /// Since the first batch; 0 before it.
    pub teacher_seconds: f64,
    /// See [`Tally::passes`].
    pub passes: u64,
    /// See [`Tally::largest_pass`].
    pub largest_pass: u64,
    /// See [`Tally::prepare_nanos`], in seconds.
    pub prepare_seconds: f64,
    /// See [`Tally::wait_nanos`], in seconds.
    pub wait_seconds: f64,
    /// See [`Tally::writer_nanos`], in seconds.
    pub writer_seconds: f64,
    /// See [`Tally::idle_nanos`], in seconds.
    pub idle_seconds: f64,
}

impl Tally {
    /// Adds to one counter.
    pub fn add(counter: &AtomicU64, number: u64) {
        counter.fetch_add(number, Ordering::Relaxed);
    }

    /// Adds the time since `start`.
    pub fn add_time(counter: &AtomicU64, start: Instant) {
        Tally::add(counter, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds seconds that the device stood still.
    pub fn add_idle(&self, seconds: f64) {
        Tally::add(&self.idle_nanos, (seconds.max(0.0) * 1e9) as u64);
    }

    /// Counts a pass of this many tokens that is done.
    pub fn add_pass(&self, tokens: u64) {
        Tally::add(&self.tokens, tokens);
        Tally::add(&self.passes, 1);
        self.largest_pass.fetch_max(tokens, Ordering::Relaxed);
    }

    /// Counts a bad row, and stops the run if that was one too many.
    pub fn add_bad(&self, budget: MaxBad, stop: &Stop) {
        let bad = self.quarantined.fetch_add(1, Ordering::Relaxed) + 1;
        if budget.is_spent(bad, self.read.load(Ordering::Relaxed), false) {
            stop.raise(StopReason::BudgetSpent);
        }
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            read: get(&self.read),
            committed: get(&self.committed),
            duplicates: get(&self.duplicates),
            elsewhere: get(&self.elsewhere),
            not_owed: get(&self.not_owed),
            quarantined: get(&self.quarantined),
            written: get(&self.written),
            tokens: get(&self.tokens),
            passes: get(&self.passes),
            largest_pass: get(&self.largest_pass),
            prepare_seconds: get(&self.prepare_nanos) as f64 / 1e9,
            wait_seconds: get(&self.wait_nanos) as f64 / 1e9,
            writer_seconds: get(&self.writer_nanos) as f64 / 1e9,
            idle_seconds: get(&self.idle_nanos) as f64 / 1e9,
            teacher_seconds: self.first_batch.get().map_or(0.0, |start| start.elapsed().as_secs_f64()),
        }
    }

    /// Notes how far the dataset's files have been read: bytes done and in all.
    pub fn set_bytes(&self, (read, total): (u64, u64)) {
        self.bytes_read.store(read, Ordering::Relaxed);
        self.bytes_total.store(total, Ordering::Relaxed);
    }

    /// Rows the dataset will have had at its end, as far as the bytes read tell.
    pub fn expected_rows(&self) -> u64 {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (read, done, total) = (get(&self.read), get(&self.bytes_read), get(&self.bytes_total));
        if done == 0 || done >= total { read } else { (read as f64 * total as f64 / done as f64) as u64 }
    }
}

impl Counts {
    /// Rows whose fate is known.
    pub fn settled(&self) -> u64 {
        self.committed + self.duplicates + self.elsewhere + self.not_owed + self.quarantined + self.written
    }

    /// How fast the teacher is.
    pub fn tokens_per_second(&self) -> f64 {
        if self.teacher_seconds > 0.0 { self.tokens as f64 / self.teacher_seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_tell_how_many_rows_to_expect() {
        let tally = Tally::default();
        Tally::add(&tally.read, 10);
        assert_eq!(tally.expected_rows(), 10, "nothing known yet");
        tally.set_bytes((250, 1000));
        assert_eq!(tally.expected_rows(), 40);
    }

    #[test]
    fn one_bad_row_too_many_stops_the_run() {
        let (tally, stop) = (Tally::default(), Stop::default());
        tally.add_bad(MaxBad::Rows(1), &stop);
        assert!(!stop.is_raised());
        tally.add_bad(MaxBad::Rows(1), &stop);
        assert_eq!(stop.reason(), Some(StopReason::BudgetSpent));
    }
}
