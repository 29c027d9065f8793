//! Batches by token budget. Samples wait in a small window so that those of like length run together, which keeps the
//! attention of a packed batch even; nothing is ever padded, and which samples share a batch never changes a result.

use std::collections::BTreeMap;

use crate::sample::Prepared;

/// Tokens that wait, in batches.
const WINDOW_BATCHES: usize = 4;
/// Pixels that wait: images weigh thousands of bytes a token, so they bound the window before tokens do.
const WINDOW_PIXEL_BYTES: usize = 256 << 20;

/// Samples waiting for a batch, by length and arrival.
pub struct Window {
    waiting: BTreeMap<(usize, u64), Prepared>,
    max_tokens: usize,
    num_tokens: usize,
    pixel_bytes: usize,
    arrivals: u64,
}

impl Window {
    /// A window for batches of up to `max_tokens` tokens.
    pub fn new(max_tokens: usize) -> Window {
        Window { waiting: BTreeMap::new(), max_tokens, num_tokens: 0, pixel_bytes: 0, arrivals: 0 }
    }

    /// Takes a sample in.
    pub fn push(&mut self, sample: Prepared) {
        self.num_tokens += sample.num_tokens();
        self.pixel_bytes += sample.pixel_bytes();
        self.waiting.insert((sample.num_tokens(), self.arrivals), sample);
        self.arrivals += 1;
    }

    /// Whether a batch should leave before another sample comes in.
    pub fn is_full(&self) -> bool {
        self.num_tokens >= WINDOW_BATCHES * self.max_tokens || self.pixel_bytes >= WINDOW_PIXEL_BYTES
    }

    /// The sample that waited longest with those nearest to it in length, as many as the budget takes; empty if none waits.
    pub fn pop_batch(&mut self) -> Vec<Prepared> {
        let lengths: Vec<(usize, u64)> = self.waiting.keys().copied().collect();
        let Some(oldest) = (0..lengths.len()).min_by_key(|&at| lengths[at].1) else { return Vec::new() };
        let chosen = around(&lengths, oldest, self.max_tokens);
        let batch: Vec<Prepared> =
            lengths[chosen].iter().filter_map(|key| self.waiting.remove(key)).collect();
        self.num_tokens -= batch.iter().map(Prepared::num_tokens).sum::<usize>();
        self.pixel_bytes -= batch.iter().map(Prepared::pixel_bytes).sum::<usize>();
        batch
    }
}

/// The widest run of the sorted `lengths` around `at` that stays within `budget`, grown towards the nearer length; `at` itself always.
fn around(lengths: &[(usize, u64)], at: usize, budget: usize) -> std::ops::Range<usize> {
    let (mut start, mut end, mut total) = (at, at + 1, lengths[at].0);
    loop {
        let below = start.checked_sub(1).filter(|&below| total + lengths[below].0 <= budget);
        let above = Some(end).filter(|&above| above < lengths.len() && total + lengths[above].0 <= budget);
        let distance = |other: usize| lengths[other].0.abs_diff(lengths[at].0);
        let take_below = match (below, above) {
            (None, None) => return start..end,
            (Some(below), Some(above)) => distance(below) <= distance(above),
            (below, _) => below.is_some(),
        };
        if take_below {
            start -= 1;
            total += lengths[start].0;
        } else {
            total += lengths[end].0;
            end += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(lengths: &[usize]) -> Vec<(usize, u64)> {
        lengths.iter().zip(0..).map(|(length, arrival)| (*length, arrival)).collect()
    }

    #[test]
    fn a_batch_takes_the_nearest_lengths_within_the_budget() {
        let lengths = lengths(&[2, 3, 10, 11, 12, 40]);
        assert_eq!(around(&lengths, 3, 35), 2..5, "10 + 11 + 12");
        assert_eq!(around(&lengths, 0, 16), 0..3, "2 + 3 + 10");
        assert_eq!(around(&lengths, 2, 10), 2..3, "one sample fills it");
    }

    #[test]
    fn a_sample_beyond_the_budget_runs_alone() {
        assert_eq!(around(&lengths(&[2, 3, 40]), 2, 20), 2..3);
    }
}
