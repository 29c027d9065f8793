//! Batches by token budget. Samples wait in a small window so that those of like length run together, which keeps the
//! attention of a packed batch even; nothing is ever padded, and which samples share a batch never changes a result.

use std::collections::BTreeMap;

use crate::sample::Prepared;

/// Tokens that wait, in batches.
const WINDOW_BATCHES: usize = 4;
/// Pixels that wait: images weigh thousands of bytes a token, so they bound the window before tokens do.
pub const WINDOW_PIXEL_BYTES: usize = 256 << 20;

/// How large a batch may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize {
    /// Tokens of all its samples, those of images included.
    pub max_tokens: usize,
    /// Bytes of pixels.
    pub max_pixel_bytes: usize,
}

impl BatchSize {
    /// Bounded by tokens alone.
    pub fn of_tokens(max_tokens: usize) -> BatchSize {
        BatchSize { max_tokens, max_pixel_bytes: usize::MAX }
    }

    /// Bytes of pixels that wait in the window.
    fn window_pixel_bytes(self) -> usize {
        WINDOW_PIXEL_BYTES.min(self.max_pixel_bytes.saturating_mul(2))
    }
}

/// Samples waiting for a batch, by length and arrival.
pub struct Window {
    waiting: BTreeMap<(usize, u64), Prepared>,
    size: BatchSize,
    num_tokens: usize,
    pixel_bytes: usize,
    arrivals: u64,
}

impl Window {
    /// A window for batches of up to `size`.
    pub fn new(size: BatchSize) -> Window {
        Window { waiting: BTreeMap::new(), size, num_tokens: 0, pixel_bytes: 0, arrivals: 0 }
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
        self.num_tokens >= WINDOW_BATCHES * self.size.max_tokens
            || self.pixel_bytes >= self.size.window_pixel_bytes()
    }

    /// The sample that waited longest with those nearest to it in length, as many as the budget takes; empty if none waits.
    pub fn pop_batch(&mut self) -> Vec<Prepared> {
        let lengths: Vec<(usize, u64)> = self.waiting.keys().copied().collect();
        let Some(oldest) = (0..lengths.len()).min_by_key(|&at| lengths[at].1) else { return Vec::new() };
        let pixels: Vec<usize> = self.waiting.values().map(Prepared::pixel_bytes).collect();
        let chosen = around(&lengths, &pixels, oldest, self.size);
        let batch: Vec<Prepared> =
            lengths[chosen].iter().filter_map(|key| self.waiting.remove(key)).collect();
        self.num_tokens -= batch.iter().map(Prepared::num_tokens).sum::<usize>();
        self.pixel_bytes -= batch.iter().map(Prepared::pixel_bytes).sum::<usize>();
        batch
    }
}

/// The widest run of the sorted `lengths` around `at` that stays within `size`, grown towards the nearer length; `at` itself
/// always. `pixels` has the bytes of each.
fn around(lengths: &[(usize, u64)], pixels: &[usize], at: usize, size: BatchSize) -> std::ops::Range<usize> {
    let (mut start, mut end) = (at, at + 1);
    let (mut tokens, mut pixel_bytes) = (lengths[at].0, pixels[at]);
    loop {
        let fits = |other: &usize| {
            tokens + lengths[*other].0 <= size.max_tokens
                && pixel_bytes.saturating_add(pixels[*other]) <= size.max_pixel_bytes
        };
        let below = start.checked_sub(1).filter(fits);
        let above = Some(end).filter(|&above| above < lengths.len()).filter(fits);
        let distance = |other: usize| lengths[other].0.abs_diff(lengths[at].0);
        let take_below = match (below, above) {
            (None, None) => return start..end,
            (Some(below), Some(above)) => distance(below) <= distance(above),
            (below, _) => below.is_some(),
        };
        let taken = if take_below { start - 1 } else { end };
        (start, end) = (start.min(taken), end.max(taken + 1));
        tokens += lengths[taken].0;
        pixel_bytes = pixel_bytes.saturating_add(pixels[taken]);
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
        let around = |at, budget| around(&lengths, &[0; 6], at, BatchSize::of_tokens(budget));
        assert_eq!(around(3, 35), 2..5, "10 + 11 + 12");
        assert_eq!(around(0, 16), 0..3, "2 + 3 + 10");
        assert_eq!(around(2, 10), 2..3, "one sample fills it");
    }

    #[test]
    fn a_sample_beyond_the_budget_runs_alone() {
        let around = |size| around(&lengths(&[2, 3, 40]), &[7, 7, 70], 2, size);
        assert_eq!(around(BatchSize::of_tokens(20)), 2..3);
        assert_eq!(around(BatchSize { max_tokens: 100, max_pixel_bytes: 20 }), 2..3);
    }

    #[test]
    fn pixels_bound_a_batch_as_tokens_do() {
        let around = |max_pixel_bytes| {
            let size = BatchSize { max_tokens: 1000, max_pixel_bytes };
            around(&lengths(&[2, 3, 10, 11, 12]), &[50, 0, 30, 20, 60], 3, size)
        };
        assert_eq!(around(200), 0..5);
        assert_eq!(around(79), 1..4, "neither 60 nor 50 has room beside 20 + 30");
        assert_eq!(around(20), 3..4);
    }
}
