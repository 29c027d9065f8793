//! The order of samples: a pure function of the seed and the step.
//!
//! Step `k` takes positions `k * batch_size ..` of an endless stream of epochs, each epoch a permutation of its
//! own. Nothing depends on threads or on what was drawn before, so resuming needs only the step's number.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The order of one stage.
#[derive(Clone, Debug)]
pub struct Sampler {
    seed: u64,
    num_samples: usize,
    batch_size: usize,
    /// The epoch last asked for and its permutation.
    epoch: Option<(u64, Vec<u32>)>,
}

impl Sampler {
    /// An order over samples `0..num_samples`, at least one of them.
    #[must_use]
    pub fn new(seed: u64, num_samples: usize, batch_size: usize) -> Self {
        Self { seed, num_samples, batch_size, epoch: None }
    }

    /// The samples of a step.
    pub fn batch(&mut self, step: usize) -> Vec<usize> {
        let first = step * self.batch_size;
        (first..first + self.batch_size).map(|position| self.sample_at(position)).collect()
    }

    fn sample_at(&mut self, position: usize) -> usize {
        let epoch = (position / self.num_samples) as u64;
        let place = position % self.num_samples;
        match &self.epoch {
            Some((current, order)) if *current == epoch => order[place] as usize,
            _ => {
                let order = permutation(self.seed, epoch, self.num_samples);
                let sample = order[place] as usize;
                self.epoch = Some((epoch, order));
                sample
            }
        }
    }
}

/// Fisher-Yates with our own bounded draw, so that the order never changes with a library.
fn permutation(seed: u64, epoch: u64, num_samples: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    let mut order: Vec<u32> = (0..num_samples as u32).collect();
    for last in (1..num_samples).rev() {
        // 64 random bits over at most 2^32 places: the bias is below 2^-32.
        let pick = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, pick as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, steps: std::ops::Range<usize>) -> Vec<usize> {
        let mut sampler = Sampler::new(seed, 10, 4);
        steps.flat_map(|step| sampler.batch(step)).collect()
    }

    #[test]
    fn every_epoch_is_a_permutation_of_its_own() {
        let stream = drawn(1, 0..5);
        let [mut first, mut second] = [stream[..10].to_vec(), stream[10..].to_vec()];
        assert_ne!(first, second);
        first.sort_unstable();
        second.sort_unstable();
        assert_eq!(first, (0..10).collect::<Vec<_>>());
        assert_eq!(second, first);
    }

    #[test]
    fn a_resumed_stream_is_the_tail_of_the_whole() {
        assert_eq!(drawn(7, 0..9)[12..], drawn(7, 3..9));
        assert_ne!(drawn(7, 0..9), drawn(8, 0..9));
    }

    #[test]
    fn places_are_even() {
        let mut counts = [0usize; 5];
        for epoch in 0..5000 {
            counts[permutation(3, epoch, 5)[0] as usize] += 1;
        }
        // 5000 draws over 5 places: mean 1000, standard deviation 28; five of them is 140.
        assert!(counts.iter().all(|count| count.abs_diff(1000) < 140), "{counts:?}");
    }
}
