//! Several caches of one teacher as one: opened together, and drawn from in fixed shares.
//!
//! A weight is a share of the samples that are drawn, whatever the caches' sizes: with weights 2 and 1, two of three
//! samples come from the first. An epoch has as many draws as there are training samples, and each cache has the same number
//! of them in every epoch: its share, rounded so that they add up. A cache's own samples come in passes: all of
//! them once, in random order, before one comes again. The order follows from the seed alone.

use std::sync::Arc;

use anyhow::{Result, bail};
use shared::cache::{CacheReader, ReaderOptions};
use shared::ids::{Digest, Fingerprint};

use super::disk_order::DiskOrder;
use super::sampler::permutation;
use crate::config::RunConfig;

/// The caches of a run, at least one, all of one teacher.
pub struct Caches {
    readers: Vec<Arc<CacheReader>>,
    weights: Vec<f64>,
    is_mixture: bool,
}

impl Caches {
    /// Opens what the run names; `None` where it names nothing.
    ///
    /// # Errors
    /// When a cache cannot be read, or two were not made alike, naming each difference.
    pub fn open(config: &RunConfig) -> Result<Option<Self>> {
        let named = config.caches();
        let options = ReaderOptions { access: config.data.read, ..ReaderOptions::default() };
        let mut readers: Vec<Arc<CacheReader>> = Vec::with_capacity(named.len());
        for (dir, _) in &named {
            let reader = CacheReader::open_with(dir, options)?;
            if let Some(first) = readers.first() {
                first.require_alike(&reader)?;
            }
            readers.push(Arc::new(reader));
        }
        let weights = named.iter().map(|(_, weight)| *weight).collect();
        let is_mixture = !config.data.mixture.is_empty();
        Ok((!readers.is_empty()).then_some(Self { readers, weights, is_mixture }))
    }

    /// The first cache: width, head and fingerprint are those of all.
    #[must_use]
    pub fn first(&self) -> &Arc<CacheReader> {
        &self.readers[0]
    }

    /// Each cache, in the order they were named.
    #[must_use]
    pub fn readers(&self) -> &[Arc<CacheReader>] {
        &self.readers
    }

    /// Each cache's share of the samples that are drawn, from its weight; `None` where a run names one cache without any.
    #[must_use]
    pub fn shares(&self) -> Option<Vec<f64>> {
        let total: f64 = self.weights.iter().sum();
        self.is_mixture.then(|| self.weights.iter().map(|weight| weight / total).collect())
    }

    /// What a run must keep of them: their fingerprint, and of a mixture its weights and samples.
    pub fn identify(&self, identity: &mut Fingerprint) {
        identity.insert("cache fingerprint", self.first().manifest().fingerprint.digest());
        if !self.is_mixture {
            return;
        }
        for (number, (reader, weight)) in self.readers.iter().zip(&self.weights).enumerate() {
            let mut keys: Vec<_> = (0..reader.len()).map(|row| reader.key(row)).collect();
            keys.sort_unstable();
            let bytes: Vec<u8> = keys.iter().flat_map(|key| *key.as_bytes()).collect();
            let samples = format!("{} samples {}", keys.len(), Digest::of(&bytes));
            identity.insert(format!("mixture {number}"), format!("weight {weight}, {samples}"));
        }
    }
}

/// The order of a mixture's samples.
#[derive(Clone, Debug)]
pub struct MixedOrder {
    parts: Vec<Part>,
}

/// One cache's part of the order.
#[derive(Clone, Debug)]
struct Part {
    /// Its training samples.
    samples: Arc<[u32]>,
    /// How many of an epoch's draws are its.
    quota: usize,
    /// Its passes in long stretches of the disk.
    disk: Option<DiskOrder>,
}

impl MixedOrder {
    /// An order over the training samples of each cache, each drawn to its share; with their disk orders if they are to be
    /// read in long stretches.
    ///
    /// # Errors
    /// When a cache has no training sample, or a share is below one sample of an epoch.
    pub fn new(samples: Vec<Vec<u32>>, shares: &[f64], disks: Vec<Option<DiskOrder>>) -> Result<Self> {
        let total = samples.iter().map(Vec::len).sum();
        let quotas = quotas(shares, total);
        for (number, (samples, quota)) in samples.iter().zip(&quotas).enumerate() {
            if samples.is_empty() {
                bail!("cache {number} of `data.mixture` has no sample that trains\nhint: leave it out");
            }
            if *quota == 0 {
                bail!(
                    "the weight of cache {number} of `data.mixture` is less than one of an epoch's {total} samples\n\
                     hint: a greater weight, or leave it out"
                );
            }
        }
        let parts = samples.into_iter().zip(quotas).zip(disks);
        let part =
            |((samples, quota), disk): ((Vec<u32>, usize), _)| Part { samples: samples.into(), quota, disk };
        Ok(Self { parts: parts.map(part).collect() })
    }

    /// The samples of an epoch: each cache's draws in the order of its own passes, mixed at random.
    #[must_use]
    pub fn epoch(&self, seed: u64, epoch: u64) -> Vec<u32> {
        let total: usize = self.parts.iter().map(|part| part.quota).sum();
        let mut draws: Vec<_> =
            (0..).zip(&self.parts).map(|(number, part)| part.draws(seed, number, epoch)).collect();
        let ends: Vec<usize> = self
            .parts
            .iter()
            .scan(0, |end, part| {
                *end += part.quota;
                Some(*end)
            })
            .collect();
        let places = permutation(seed, epoch, total);
        let of_part = |place: u32| ends.partition_point(|end| *end <= place as usize);
        places.into_iter().filter_map(|place| draws[of_part(place)].next()).collect()
    }
}

impl Part {
    /// The cache's draws of an epoch: the stretch of its passes that follows the last epoch's.
    fn draws(&self, seed: u64, number: u64, epoch: u64) -> std::vec::IntoIter<u32> {
        let seed = seed.wrapping_add((number + 1) << 40);
        let (len, first) = (self.samples.len(), epoch as usize * self.quota);
        let mut draws = Vec::with_capacity(self.quota);
        while draws.len() < self.quota {
            let at = first + draws.len();
            let pass = self.pass(seed, (at / len) as u64);
            draws.extend(pass.into_iter().skip(at % len).take(self.quota - draws.len()));
        }
        draws.into_iter()
    }

    fn pass(&self, seed: u64, pass: u64) -> Vec<u32> {
        match &self.disk {
            Some(disk) => disk.epoch(seed, pass),
            None => {
                let order = permutation(seed, pass, self.samples.len());
                order.into_iter().map(|place| self.samples[place as usize]).collect()
            }
        }
    }
}

/// `total` divided into `shares`, which add up to 1: each rounded down, and what is left to the greatest remainders, of equal
/// ones to the first.
fn quotas(shares: &[f64], total: usize) -> Vec<usize> {
    let exact: Vec<f64> = shares.iter().map(|share| share * total as f64).collect();
    let mut quotas: Vec<usize> = exact.iter().map(|exact| exact.floor() as usize).collect();
    let left = total.saturating_sub(quotas.iter().sum());
    let mut order: Vec<usize> = (0..shares.len()).collect();
    let remainder = |part: usize| exact[part] - exact[part].floor();
    order.sort_by(|a, b| remainder(*b).total_cmp(&remainder(*a)));
    order.into_iter().take(left).for_each(|part| quotas[part] += 1);
    quotas
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::collections::BTreeMap;

    use super::*;

    /// Samples 0..7 and 7..10, drawn three to one.
    fn order() -> MixedOrder {
        MixedOrder::new(vec![(0..7).collect(), (7..10).collect()], &[0.75, 0.25], vec![None, None]).unwrap()
    }

    #[test]
    fn shares_are_exact_in_every_epoch() {
        // 7.5 and 2.5 of 10: of equal remainders the first is rounded up.
        for epoch in 0..5 {
            let drawn = order().epoch(3, epoch);
            assert_eq!(drawn.len(), 10);
            assert_eq!(drawn.iter().filter(|&&sample| sample < 7).count(), 8, "epoch {epoch}: {drawn:?}");
        }
        assert_eq!(quotas(&[0.5, 0.3, 0.2], 10), [5, 3, 2]);
        assert_eq!(quotas(&[0.4, 0.4, 0.2], 4), [2, 1, 1]);
    }

    #[test]
    fn a_caches_samples_come_once_a_pass() {
        // 21 epochs are 168 draws of 7 samples and 42 of 3: 24 and 14 whole passes.
        let drawn: Vec<u32> = (0..21).flat_map(|epoch| order().epoch(3, epoch)).collect();
        for (samples, passes) in [(0..7u32, 24), (7..10, 14)] {
            let own: Vec<u32> = drawn.iter().copied().filter(|sample| samples.contains(sample)).collect();
            for pass in own.chunks(samples.len()) {
                let mut pass = pass.to_vec();
                pass.sort_unstable();
                assert_eq!(pass, samples.clone().collect::<Vec<_>>());
            }
            assert_eq!(own.len(), passes * samples.len());
        }
    }

    #[test]
    fn the_order_follows_from_the_seed_and_mixes() {
        assert_eq!(order().epoch(3, 4), order().epoch(3, 4));
        assert_ne!(order().epoch(3, 4), order().epoch(4, 4));
        assert_ne!(order().epoch(3, 4), order().epoch(3, 5));
        // How often the second cache's two draws stand at each place of an epoch: every place has some.
        let mut places = BTreeMap::new();
        for epoch in 0..200 {
            let drawn = order().epoch(9, epoch);
            drawn.iter().enumerate().filter(|(_, sample)| **sample >= 7).for_each(|(place, _)| {
                *places.entry(place).or_insert(0) += 1;
            });
        }
        assert_eq!(places.len(), 10, "{places:?}");
        assert_eq!(places.values().sum::<i32>(), 400);
    }

    #[test]
    fn weights_as_the_sizes_draw_everything_once() {
        let order = MixedOrder::new(
            vec![vec![0, 3], vec![1], vec![2, 4, 5]],
            &[2.0 / 6.0, 1.0 / 6.0, 0.5],
            vec![None; 3],
        );
        let mut drawn = order.unwrap().epoch(1, 0);
        drawn.sort_unstable();
        assert_eq!(drawn, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_can_never_be_drawn_is_refused() {
        let refused = |samples: Vec<Vec<u32>>, shares: &[f64]| {
            MixedOrder::new(samples, shares, vec![None; 2]).unwrap_err().to_string()
        };
        assert!(refused(vec![vec![0], vec![]], &[0.5, 0.5]).contains("cache 1 of `data.mixture`"));
        let rare = refused(vec![(0..9).collect(), vec![9]], &[0.99, 0.01]);
        assert!(rare.contains("less than one of an epoch's 10 samples") && rare.contains("hint:"), "{rare}");
    }
}
