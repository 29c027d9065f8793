//! What a person sees while a run goes on: a bar on a terminal, a line now and then elsewhere. Always on standard error.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use shared::memory::peak_rss_bytes;

use crate::tally::{Counts, Tally};

const BAR_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(30);
/// The first line comes sooner, so that a log shows early whether the rate is what one hoped for.
const FIRST_LINE: Duration = Duration::from_secs(5);

/// Shows the counters until the other end of `done` is dropped.
pub fn show(tally: &Tally, done: Receiver<()>) {
    if std::io::stderr().is_terminal() { show_bar(tally, done) } else { show_lines(tally, done) }
}

fn show_bar(tally: &Tally, done: Receiver<()>) {
    let bar = ProgressBar::new(0);
    // The template is a constant: were it wrong, the plain default would show.
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {msg}") {
        bar.set_style(style);
    }
    while done.recv_timeout(BAR_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let counts = tally.counts();
        bar.set_length(tally.expected_rows());
        bar.set_position(counts.settled());
        bar.set_message(line(&counts, tally.expected_rows()));
    }
    bar.finish_and_clear();
}

fn show_lines(tally: &Tally, done: Receiver<()>) {
    let mut wait = FIRST_LINE;
    while done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        shared::say!("{}", line(&tally.counts(), tally.expected_rows()));
        wait = LINE_INTERVAL;
    }
}

/// `312/680 samples, 1240 tokens/s, 2 bad, about 31 seconds left, at most 412 MiB`
fn line(counts: &Counts, expected_rows: u64) -> String {
    let mut parts = vec![format!("{}/{expected_rows} rows", counts.settled())];
    if counts.tokens > 0 {
        parts.push(format!("{:.0} tokens/s", counts.tokens_per_second()));
    }
    if counts.quarantined > 0 {
        parts.push(format!("{} bad", counts.quarantined));
    }
    if let Some(left) = time_left(counts, expected_rows) {
        parts.push(format!("about {} left", HumanDuration(left)));
    }
    if let Some(peak) = peak_rss_bytes() {
        parts.push(format!("at most {}", HumanBytes(peak)));
    }
    parts.join(", ")
}

/// From the rate of samples written; rows that were skipped cost nothing and say nothing about it.
fn time_left(counts: &Counts, expected_rows: u64) -> Option<Duration> {
    let left = expected_rows.saturating_sub(counts.settled());
    let seconds = left as f64 * counts.teacher_seconds / counts.written as f64;
    (counts.written > 0).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// What a [`bar`] counts.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Bytes of a cache's files.
    Bytes,
    /// Samples of caches.
    Samples,
}

/// A bar for commands that run no teacher, or a line now and then: call the result with what is done and what there is in all.
pub fn bar(unit: Unit) -> impl Fn(u64, u64) + Sync {
    let bar = ProgressBar::new(0);
    let template = match unit {
        Unit::Bytes => "{bar:32} {bytes}/{total_bytes}, {bytes_per_sec}, about {eta} left",
        Unit::Samples => "{bar:32} {human_pos}/{human_len} samples, {per_sec}, about {eta} left",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let (is_terminal, started) = (std::io::stderr().is_terminal(), Instant::now());
    let next_line = AtomicU64::new(FIRST_LINE.as_secs());
    move |done, total| {
        // A short job needs no bar; without a terminal indicatif draws nothing.
        let seconds = started.elapsed();
        if seconds > BAR_INTERVAL {
            bar.set_length(total);
            bar.set_position(done);
        }
        if done == total {
            bar.finish_and_clear();
        } else if !is_terminal && is_due(&next_line, seconds.as_secs()) {
            shared::say!("{}", line_of(unit, done, total));
        }
    }
}

/// Whether a line is due; of several threads that ask at once, one is told so.
fn is_due(next: &AtomicU64, now: u64) -> bool {
    let due = next.load(Ordering::Relaxed);
    let after = now + LINE_INTERVAL.as_secs();
    now >= due && next.compare_exchange(due, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

fn line_of(unit: Unit, done: u64, total: u64) -> String {
    match unit {
        Unit::Bytes => format!("{} of {}", HumanBytes(done), HumanBytes(total)),
        Unit::Samples => format!("{done} of {total} samples"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_ignores_skipped_rows() {
        let counts = Counts { committed: 500, written: 100, teacher_seconds: 50.0, ..Counts::default() };
        assert_eq!(time_left(&counts, 800), Some(Duration::from_secs(100)), "200 rows at half a second");
        assert_eq!(time_left(&Counts::default(), 800), None);
    }

    #[test]
    fn a_line_is_due_now_and_then() {
        let next = AtomicU64::new(5);
        let due: Vec<u64> = (0..70).filter(|second| is_due(&next, *second)).collect();
        assert_eq!(due, [5, 35, 65], "after the first interval, then after each of the longer ones");
        assert_eq!(line_of(Unit::Samples, 3, 8), "3 of 8 samples");
        assert_eq!(line_of(Unit::Bytes, 1 << 20, 3 << 20), "1.00 MiB of 3.00 MiB");
    }

    #[test]
    fn a_line_says_what_there_is_to_say() {
        let counts = Counts {
            read: 5,
            written: 3,
            quarantined: 1,
            tokens: 300,
            teacher_seconds: 2.0,
            ..Counts::default()
        };
        let text = line(&counts, 8);
        assert!(text.starts_with("4/8 rows, 150 tokens/s, 1 bad, about 3 seconds left"), "{text}");
    }
}
