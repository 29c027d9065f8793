//! An order of samples that is random and still reads the disk in long stretches.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A permutation of the samples in `blocks` (ranges of sample numbers that lie together on disk): the blocks are shuffled,
/// `at_once` of them (one at least) are mixed together, then the next ones.
///
/// A pure function of its arguments: whoever stopped after `n` samples goes on with the `n`-th, however many workers there were
/// then and are now.
pub(super) fn block_shuffled(blocks: &[Range<u32>], at_once: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut draws = Draws { seed: xxh3_64_with_seed(&epoch.to_le_bytes(), seed), drawn: 0 };
    let mut blocks = blocks.to_vec();
    draws.shuffle(&mut blocks);
    let mut order = Vec::with_capacity(blocks.iter().map(|block| block.len()).sum());
    for some in blocks.chunks(at_once.max(1)) {
        let start = order.len();
        order.extend(some.iter().cloned().flatten());
        draws.shuffle(&mut order[start..]);
    }
    order
}

/// Random numbers from a counter, so that the order never changes with a library.
struct Draws {
    seed: u64,
    drawn: u64,
}

impl Draws {
    /// A number below `bound`; for bounds below 2^32 the bias is below 2^-32.
    fn below(&mut self, bound: usize) -> usize {
        let word = xxh3_64_with_seed(&self.drawn.to_le_bytes(), self.seed);
        self.drawn += 1;
        ((u128::from(word) * bound as u128) >> 64) as usize
    }

    /// Fisher-Yates.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of 1, 2, ... 12 samples.
    fn blocks() -> Vec<Range<u32>> {
        (0..12u32).map(|n| n * (n + 1) / 2..(n + 1) * (n + 2) / 2).collect()
    }

    fn block_of(sample: u32) -> usize {
        blocks().iter().position(|block| block.contains(&sample)).unwrap_or(usize::MAX)
    }

    #[test]
    fn every_sample_comes_once_and_a_window_holds_few_blocks() {
        let order = block_shuffled(&blocks(), 3, 1, 0);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..78).collect::<Vec<_>>());
        // Three blocks are exhausted before a fourth begins.
        let mut rest = order.as_slice();
        for _ in 0..4 {
            let mut open: Vec<usize> = Vec::new();
            let end = rest.iter().position(|&sample| {
                let block = block_of(sample);
                if !open.contains(&block) {
                    open.push(block);
                }
                open.len() > 3
            });
            let (window, others) = rest.split_at(end.unwrap_or(rest.len()));
            assert!(
                window.iter().all(|&sample| others.iter().all(|&other| block_of(other) != block_of(sample)))
            );
            rest = others;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn seeds_and_epochs_differ_and_repeat() {
        let order = |seed, epoch| block_shuffled(&blocks(), 4, seed, epoch);
        assert_eq!(order(5, 2), order(5, 2));
        assert_ne!(order(5, 2), order(5, 3));
        assert_ne!(order(5, 2), order(6, 2));
    }

    #[test]
    fn places_are_even() {
        let mut counts = [0usize; 5];
        for epoch in 0..5000 {
            counts[block_shuffled(&[0..2, 2..5], 2, 3, epoch)[0] as usize] += 1;
        }
        // 5000 draws over 5 places: mean 1000, standard deviation 28; five of them is 140.
        assert!(counts.iter().all(|count| count.abs_diff(1000) < 140), "{counts:?}");
    }
}
