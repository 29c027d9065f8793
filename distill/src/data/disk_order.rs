//! Orders of the training samples that are random and still read the cache's disk in long stretches.

use std::sync::Arc;

use shared::cache::CacheReader;

/// What a cache's row that does not train has for a sample.
const NONE: u32 = u32::MAX;

/// The training samples by where they lie in the cache.
#[derive(Clone)]
pub struct DiskOrder {
    cache: Arc<CacheReader>,
    /// The training sample of each row.
    samples: Arc<[u32]>,
    groups_at_once: usize,
}

impl DiskOrder {
    /// An order of (sample, its row) that mixes so many row groups at a time.
    #[must_use]
    pub fn new(
        cache: Arc<CacheReader>,
        samples: impl IntoIterator<Item = (u32, usize)>,
        groups_at_once: usize,
    ) -> Self {
        let mut of_row = vec![NONE; cache.len()];
        samples.into_iter().for_each(|(sample, row)| of_row[row] = sample);
        Self { cache, samples: of_row.into(), groups_at_once }
    }

    /// The order of an epoch: each sample once. The same arguments give the same order.
    #[must_use]
    pub fn epoch(&self, seed: u64, epoch: u64) -> Vec<u32> {
        let rows = self.cache.block_shuffled(seed, epoch, self.groups_at_once);
        rows.into_iter().map(|row| self.samples[row as usize]).filter(|&sample| sample != NONE).collect()
    }
}

impl std::fmt::Debug for DiskOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskOrder of {} rows, {} groups at once", self.samples.len(), self.groups_at_once)
    }
}
