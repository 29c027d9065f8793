//! The order of samples: a pure function of the seed and the step.
//!
//! Step `k` takes positions `k * batch_size ..` of an endless stream of epochs, each epoch a permutation of its
//! own, or the draws of a [`super::mixture`]. Nothing depends on threads or on what was drawn before, so resuming needs only the step's number.
//!
//! With bucketing, the positions of `bucket_steps` steps are sorted by their samples' length, dealt to those steps in
//! order, and the steps exchanged at random: those of a step, and so of a microbatch, are of like length, and as many
//! samples are drawn as often as without.

use std::ops::Range;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::disk_order::DiskOrder;
use super::mixture::MixedOrder;

/// How steps come to have samples of like length.
#[derive(Clone, Debug)]
pub struct Buckets {
    /// About how long each sample is.
    pub lengths: Arc<[u32]>,
    /// Steps that share their samples out by length.
    pub bucket_steps: usize,
    /// Steps of the stage: the last bucket has only those that are left.
    pub num_steps: usize,
}

/// What an epoch's order is drawn from.
#[derive(Clone, Debug)]
pub enum Order {
    /// All samples alike.
    Alike,
    /// All samples, so that the disk is read in long stretches.
    Disk(DiskOrder),
    /// Each cache of a mixture to its share.
    Mixed(MixedOrder),
}

/// The order of one stage.
#[derive(Clone, Debug)]
pub struct Sampler {
    seed: u64,
    num_samples: usize,
    batch_size: usize,
    buckets: Option<Buckets>,
    order: Order,
    /// The epoch last asked for and its permutation.
    epoch: Option<(u64, Vec<u32>)>,
}

impl Sampler {
    /// An order over samples `0..num_samples`, at least one of them.
    #[must_use]
    pub fn new(seed: u64, num_samples: usize, batch_size: usize) -> Self {
        Self { seed, num_samples, batch_size, buckets: None, order: Order::Alike, epoch: None }
    }

    /// The same order with samples of like length in each step.
    #[must_use]
    pub fn bucketed(self, buckets: Buckets) -> Self {
        Self { buckets: (buckets.bucket_steps > 1).then_some(buckets), ..self }
    }

    /// Epochs in this order.
    #[must_use]
    pub fn ordered(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// The samples of a step.
    pub fn batch(&mut self, step: usize) -> Vec<usize> {
        // What is read ahead of the end is in no bucket, and nobody trains on it.
        let Some(buckets) = self.buckets.clone().filter(|buckets| step < buckets.num_steps) else {
            return self.drawn(step..step + 1);
        };
        let bucket = step / buckets.bucket_steps;
        let first = bucket * buckets.bucket_steps;
        let num_steps = buckets.bucket_steps.min(buckets.num_steps - first);
        let mut samples = self.drawn(first..first + num_steps);
        // Stable: equal lengths stay in the order they were drawn in.
        samples.sort_by_key(|sample| buckets.lengths[*sample]);
        let places = permutation(self.seed, u64::MAX - bucket as u64, num_steps);
        let place = places[step - first] as usize * self.batch_size;
        samples[place..place + self.batch_size].to_vec()
    }

    /// The samples of some steps, as the epochs' permutations have them.
    fn drawn(&mut self, steps: Range<usize>) -> Vec<usize> {
        let positions = steps.start * self.batch_size..steps.end * self.batch_size;
        positions.map(|position| self.sample_at(position)).collect()
    }

    fn sample_at(&mut self, position: usize) -> usize {
        let epoch = (position / self.num_samples) as u64;
        let place = position % self.num_samples;
        match &self.epoch {
            Some((current, order)) if *current == epoch => order[place] as usize,
            _ => {
                let order = match &self.order {
                    Order::Alike => permutation(self.seed, epoch, self.num_samples),
                    Order::Disk(disk) => disk.epoch(self.seed, epoch),
                    Order::Mixed(mixed) => mixed.epoch(self.seed, epoch),
                };
                let sample = order[place] as usize;
                self.epoch = Some((epoch, order));
                sample
            }
        }
    }
}

/// Fisher-Yates with our own bounded draw, so that the order never changes with a library.
pub(super) fn permutation(seed: u64, epoch: u64, num_samples: usize) -> Vec<u32> {
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

    /// 17 steps of 4 over 30 samples of made-up lengths, in buckets of 5 steps.
    fn bucketed() -> (Arc<[u32]>, Sampler) {
        let lengths: Arc<[u32]> = (0..30u32).map(|i| i * 7919 % 101).collect();
        let buckets = Buckets { lengths: lengths.clone(), bucket_steps: 5, num_steps: 17 };
        (lengths, Sampler::new(9, 30, 4).bucketed(buckets))
    }

    #[test]
    fn buckets_draw_the_same_samples_of_like_length() {
        let (lengths, mut sampler) = bucketed();
        let mut plain = Sampler::new(9, 30, 4);
        let spread = |batch: &[usize]| {
            let of_batch = || batch.iter().map(|sample| lengths[*sample]);
            of_batch().max().unwrap_or(0) - of_batch().min().unwrap_or(0)
        };
        let mut spreads = [0, 0];
        // The last bucket has two steps.
        for bucket in [0..5, 5..10, 10..15, 15..17] {
            let mut batches: [Vec<Vec<usize>>; 2] = [
                bucket.clone().map(|step| plain.batch(step)).collect(),
                bucket.map(|step| sampler.batch(step)).collect(),
            ];
            for (sum, batches) in spreads.iter_mut().zip(&batches) {
                *sum += batches.iter().map(|batch| spread(batch)).sum::<u32>();
            }
            let [mut plain, mut bucketed] = batches.each_mut().map(|batches| batches.concat());
            plain.sort_unstable();
            bucketed.sort_unstable();
            assert_eq!(plain, bucketed, "a bucket has the samples it had");
        }
        assert!(spreads[1] * 2 < spreads[0], "{spreads:?}");
    }

    #[test]
    fn a_resumed_bucketed_stream_is_the_tail_of_the_whole() {
        let whole: Vec<_> = {
            let mut sampler = bucketed().1;
            (0..17).map(|step| sampler.batch(step)).collect()
        };
        for first in [1, 7, 12, 16] {
            let mut resumed = bucketed().1;
            let tail: Vec<_> = (first..17).map(|step| resumed.batch(step)).collect();
            assert_eq!(tail, whole[first..]);
        }
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
