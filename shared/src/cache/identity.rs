//! What a cache is made from, and how it is written.

use std::collections::BTreeMap;

use super::codec::Codec;
use super::commit::Part;
use super::error::Result;
use super::head::HeadTensor;
use super::lossy::LossyError;
use super::reader::CacheReader;
use super::sample::FeatureDtype;
use crate::ids::Fingerprint;

/// What a cache is made from: its identity, the teacher's head, and names for people.
#[derive(Clone, Debug)]
pub struct CacheIdentity<'a> {
    /// Everything that decides the features; the writer adds its own format, dtype, width and codec.
    pub fingerprint: Fingerprint,
    /// The teacher's number type.
    pub dtype: FeatureDtype,
    /// Values per position.
    pub width: usize,
    /// How features are stored.
    pub codec: Codec,
    /// What the codec cost when the rows were extracted, for rows that come from another cache; measured otherwise.
    pub lossy_error: Option<LossyError>,
    /// The teacher's head; written when the cache is created.
    pub head: Vec<HeadTensor<'a>>,
    /// Facts that are not identity: the teacher's name, the command line.
    pub about: BTreeMap<String, String>,
    /// Digest of each dataset file, by the name it was given as; further files join those before.
    pub dataset: BTreeMap<String, String>,
    /// The conditions that all samples meet, where they are chosen from another cache by some.
    pub selected: Vec<String>,
}

impl<'a> CacheIdentity<'a> {
    /// The identity of an existing cache, for another one that is to hold its rows.
    ///
    /// # Errors
    /// If its head is damaged.
    pub fn of(reader: &'a CacheReader) -> Result<Self> {
        let manifest = reader.manifest().clone();
        Ok(Self {
            dtype: manifest.features.dtype,
            width: manifest.features.width,
            codec: manifest.features.codec,
            fingerprint: manifest.fingerprint,
            // Rounded values do not show what rounding cost: they are not measured again, whatever is known.
            lossy_error: manifest.features.codec.is_lossy().then(|| manifest.lossy_error.unwrap_or_default()),
            head: reader.head().to_write()?,
            about: manifest.about,
            dataset: manifest.dataset,
            selected: manifest.selected,
        })
    }
}

/// How a cache is written; none of it changes a value that is read back.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// A shard is committed once it is this large.
    pub shard_bytes: usize,
    /// A row group of a shard ends once its feature pages are this large.
    pub row_group_bytes: usize,
    /// Which of several processes on this cache this is.
    pub part: Part,
    /// The writer commits what it has and stops before the disk has less room than this.
    pub keep_free: u64,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { shard_bytes: 256 << 20, row_group_bytes: 64 << 20, part: Part::default(), keep_free: 0 }
    }
}
