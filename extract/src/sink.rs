//! The writer's thread: takes rows from a bounded queue, so that a slow disk slows the teacher down instead of filling memory.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use shared::cache::{CacheError, CacheWriter, QuarantinedRow, Row};

use crate::tally::Tally;

/// Deliveries that may wait for the writer.
pub const QUEUE: usize = 2;

/// What the writer takes.
pub enum Delivery {
    /// The samples of one batch.
    Rows(Vec<Row>),
    /// A row that is no sample.
    Bad(QuarantinedRow),
}

/// Writes until the queue closes, committing at least `every` so often and once at the end.
/// Gives the writer back, for the caller to declare the cache complete or not.
///
/// # Errors
/// What the cache refuses; everything committed before stays valid.
pub fn write(
    mut writer: CacheWriter,
    queue: Receiver<Delivery>,
    every: Duration,
    tally: &Tally,
) -> Result<CacheWriter, CacheError> {
    // The dataset is read again on every run: what is in quarantine already need not be written again.
    let known = writer.quarantined().iter().map(|row| (place(row), row.clone()));
    let known: HashMap<(String, u64), QuarantinedRow> = known.collect();
    let mut last_commit = Instant::now();
    loop {
        match queue.recv_timeout(every.saturating_sub(last_commit.elapsed())) {
            Ok(Delivery::Rows(rows)) => {
                let num_rows = rows.len() as u64;
                writer.append_batch(rows)?;
                Tally::add(&tally.written, num_rows);
            }
            Ok(Delivery::Bad(row)) if known.get(&place(&row)) == Some(&row) => {}
            Ok(Delivery::Bad(row)) => writer.quarantine(row),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if last_commit.elapsed() >= every {
            writer.commit()?;
            last_commit = Instant::now();
        }
    }
    writer.commit()?;
    Ok(writer)
}

fn place(row: &QuarantinedRow) -> (String, u64) {
    (row.source.clone(), row.row)
}
