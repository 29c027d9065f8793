//! Reading a cache: an index by key in memory, everything else from the map when asked for.

use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::codec::Codec;
use super::commit::{Places, digest_of, refuse_unlisted};
use super::error::{CacheError, Result};
use super::head::HeadFile;
use super::index::{IndexEntry, Shard};
use super::manifest::{FileEntry, Manifest, ShardEntry};
use super::order::block_shuffled;
use super::parquet_file::read_table;
use super::sample::{FeatureBlock, FeatureDtype, QuarantinedRow, Row, SampleMeta};
use super::samples::Samples;
use super::schema::{QUARANTINE, cells_to_quarantined};
use super::source::Access;
use crate::ids::SampleKey;

/// How a cache is read.
#[derive(Clone, Copy, Debug)]
pub struct ReaderOptions {
    /// Check page and value checksums on every read; costs a few percent.
    pub verify: bool,
    /// How files are read.
    pub access: Access,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        Self { verify: true, access: Access::Map }
    }
}

/// A cache opened for reading; share it between threads by reference.
///
/// Samples are numbered in shard order. The numbers hold for one state of the cache; keys hold always.
pub struct CacheReader {
    dir: PathBuf,
    manifest: Manifest,
    samples: Samples,
    /// Sample numbers in key order.
    by_key: Vec<u32>,
    head: HeadFile,
}

impl CacheReader {
    /// Opens the cache at `dir`, finished or not, and checks every read.
    ///
    /// # Errors
    /// If it is no cache, of another format version, or its manifest, a footer or the index is damaged.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, ReaderOptions::default())
    }

    /// Opens the cache at `dir`.
    ///
    /// # Errors
    /// As [`CacheReader::open`].
    pub fn open_with(dir: impl AsRef<Path>, options: ReaderOptions) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        let manifest = settled_manifest(&dir)?;
        let places = Places::of(&dir);
        let open = |shard: &ShardEntry| {
            let open = |path: &Path| Shard::open(path.into(), shard, options.access);
            places.open(&shard.entry, open)?.into_indexed()
        };
        let opened = manifest.shards.par_iter().map(open).collect::<Result<Vec<_>>>()?;
        let samples = Samples::new(manifest.features.clone(), opened, options.verify);
        let by_key = sort_by_key(&dir, &samples.index)?;
        let head = places.open(&manifest.head, |path| HeadFile::open(path, options.access))?;
        Ok(Self { dir, manifest, samples, by_key, head })
    }

    /// What the cache is; see [`Manifest::complete`] before training on it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The directory it was opened from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Refuses a cache that this one cannot be used together with.
    ///
    /// # Errors
    /// [`CacheError::Unlike`] with what differs.
    pub fn require_alike(&self, other: &Self) -> Result<()> {
        let differences = self.manifest.fingerprint.differences(&other.manifest.fingerprint);
        match differences.is_empty() {
            true => Ok(()),
            false => {
                Err(CacheError::Unlike { first: self.dir.clone(), other: other.dir.clone(), differences })
            }
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.samples.index.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.samples.index.is_empty()
    }

    /// The teacher's own number type.
    pub fn dtype(&self) -> FeatureDtype {
        self.manifest.features.dtype
    }

    /// Values per position.
    pub fn width(&self) -> usize {
        self.manifest.features.width
    }

    /// How the features are stored.
    pub fn codec(&self) -> Codec {
        self.manifest.features.codec
    }

    /// The key of sample `i`.
    pub fn key(&self, i: usize) -> SampleKey {
        self.samples.index[i].key
    }

    /// The number of the sample with this key.
    pub fn find(&self, key: &SampleKey) -> Option<usize> {
        let at = self.by_key.binary_search_by_key(key, |&i| self.samples.index[i as usize].key).ok()?;
        Some(self.by_key[at] as usize)
    }

    /// Teacher tokens of sample `i`, from the index.
    pub fn num_tokens(&self, i: usize) -> usize {
        self.samples.index[i].num_tokens as usize
    }

    /// Positions of sample `i` that have features, from the index.
    pub fn num_positions(&self, i: usize) -> usize {
        self.samples.index[i].num_positions as usize
    }

    /// All of sample `i` but its features. Reads a few small pages; nothing is kept.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] naming shard and row.
    pub fn meta(&self, i: usize) -> Result<SampleMeta> {
        self.samples.meta(i)
    }

    /// The encoded images of sample `i`, in the order of its `images`; empty if none were embedded.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] naming shard and row.
    pub fn image_files(&self, i: usize) -> Result<Vec<Vec<u8>>> {
        self.samples.image_files(i)
    }

    /// Whether the images of sample `i` are embedded; none if it has no images.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] naming shard and row.
    pub fn embeds_images(&self, i: usize) -> Result<Option<bool>> {
        match self.meta(i)?.images.as_slice() {
            [] => Ok(None),
            _ => Ok(Some(!self.image_files(i)?.is_empty())),
        }
    }

    /// The features of sample `i` in the teacher's number type: as it computed them, bit for bit, or as a lossy codec
    /// rounded them.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] naming shard and row.
    pub fn features(&self, i: usize) -> Result<FeatureBlock> {
        self.samples.features(i)
    }

    /// The features of sample `i` widened to float32, exactly: `num_positions * width` values.
    /// `out` is replaced; give the same vector again to keep its allocation.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] naming shard and row.
    pub fn features_f32(&self, i: usize, out: &mut Vec<f32>) -> Result<()> {
        self.samples.features_f32(i, 0..self.num_positions(i), out)
    }

    /// As [`CacheReader::features_f32`], of some of the sample's positions, counted from its first: only the blocks of the page
    /// that hold them are decoded. The page's checksum is verified, the checksum of all values only if all are asked for.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] naming shard and row; also for no position, or one that the sample does not have.
    pub fn features_f32_at(&self, i: usize, positions: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        self.samples.features_f32(i, positions, out)
    }

    /// Tells the system that the features of these samples will soon be read, so that it fetches them while something else
    /// is computed. Never waits.
    pub fn will_need(&self, samples: impl IntoIterator<Item = usize>) {
        samples.into_iter().for_each(|i| self.samples.will_need(i));
    }

    /// All sample numbers once, in an order for this seed and epoch that is random and yet reads the disk in long stretches:
    /// row groups are shuffled, and the samples of `groups_at_once` of them mixed. The same arguments give the same order, so
    /// that whoever stopped after `n` samples goes on with the `n`-th.
    pub fn block_shuffled(&self, seed: u64, epoch: u64, groups_at_once: usize) -> Vec<u32> {
        block_shuffled(&self.samples.row_groups(), groups_at_once, seed, epoch)
    }

    /// What is wrong with sample `i`, as an error that names its shard and row.
    pub fn damaged(&self, i: usize, reason: impl ToString) -> CacheError {
        self.samples.damaged(i, reason)
    }

    /// The whole of sample `i`, ready to be appended to another cache of the same fingerprint.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] naming shard and row.
    pub fn row(&self, i: usize) -> Result<Row> {
        self.samples.row(i)
    }

    /// The teacher's head.
    pub fn head(&self) -> &HeadFile {
        &self.head
    }

    /// The committed rows that could not become samples; those of now, where a writer has changed them meanwhile.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] if the table is not what was written.
    pub fn quarantined(&self) -> Result<Vec<QuarantinedRow>> {
        let mut entry = self.manifest.quarantine.clone();
        loop {
            let outcome = load_quarantine(&self.dir, entry.as_ref());
            if outcome.is_ok() {
                return outcome;
            }
            let now = Manifest::load(&self.dir)?.quarantine;
            if now == entry {
                return outcome;
            }
            entry = now;
        }
    }
}

/// The manifest, once it names every shard that lies in the cache: a writer may commit another one meanwhile.
fn settled_manifest(dir: &Path) -> Result<Manifest> {
    let mut manifest = Manifest::load(dir)?;
    loop {
        let outcome = refuse_unlisted(dir, &manifest);
        let now = Manifest::load(dir)?;
        if outcome.is_ok() || now == manifest {
            return outcome.map(|()| manifest);
        }
        manifest = now;
    }
}

/// The samples in the order of their keys: by the first four bytes, beside which a place fits into one number, and where
/// those are alike by all of them.
fn sort_by_key(dir: &Path, index: &[IndexEntry]) -> Result<Vec<u32>> {
    let first =
        |key: &SampleKey| key.as_bytes().iter().take(4).fold(0, |first, &byte| first << 8 | u64::from(byte));
    let mut order: Vec<u64> =
        index.iter().zip(0u64..).map(|(entry, place)| first(&entry.key) << 32 | place).collect();
    order.par_sort_unstable();
    for alike in order.chunk_by_mut(|a, b| a >> 32 == b >> 32).filter(|alike| alike.len() > 1) {
        alike.sort_unstable_by_key(|&place| index[place as u32 as usize].key);
    }
    let order: Vec<u32> = order.into_iter().map(|place| place as u32).collect();
    let twin = order.windows(2).find(|pair| index[pair[0] as usize].key == index[pair[1] as usize].key);
    match twin {
        Some(pair) => {
            let reason = format!("sample `{}` is in it twice", index[pair[0] as usize].key);
            Err(CacheError::damaged(dir, None, reason))
        }
        None => Ok(order),
    }
}

/// The rows of the quarantine table that a manifest names.
pub(super) fn load_quarantine(dir: &Path, entry: Option<&FileEntry>) -> Result<Vec<QuarantinedRow>> {
    entry.map_or(Ok(Vec::new()), |entry| Places::of(dir).open(entry, |path| read_quarantine(path, entry)))
}

fn read_quarantine(path: &Path, entry: &FileEntry) -> Result<Vec<QuarantinedRow>> {
    if digest_of(path)? != entry.digest {
        return Err(CacheError::damaged(path, None, "its content does not match the manifest"));
    }
    let decode = |(i, cells)| {
        cells_to_quarantined(cells).map_err(|reason| CacheError::damaged(path, Some(i as u64), reason))
    };
    read_table(path, &QUARANTINE)?.into_iter().enumerate().map(decode).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    /// By hand: keys of which some begin alike, and one that is there twice.
    #[test]
    fn samples_are_ordered_by_all_of_their_keys() {
        let entry = |first: u8, last: u8| IndexEntry {
            key: SampleKey::from_bytes([first, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]),
            row: 0,
            page_offset: 0,
            page_bytes: 0,
            num_tokens: 0,
            num_positions: 0,
            features_xxh3: 0,
        };
        let index = [(9, 1), (2, 8), (2, 3), (255, 0), (2, 5)].map(|(first, last)| entry(first, last));
        assert_eq!(sort_by_key(Path::new("cache"), &index).unwrap(), [2, 4, 1, 0, 3]);
        let error = sort_by_key(Path::new("cache"), &[entry(2, 3), entry(1, 1), entry(2, 3)]).unwrap_err();
        assert!(error.to_string().contains("is in it twice"), "{error}");
    }
}
