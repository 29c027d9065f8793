//! `manifest.json`: what the cache is and which files belong to it. The single commit point.
//!
//! A file that the manifest does not name does not exist; see [`super::commit`] for the order of
//! writes. The last member, `digest`, is the BLAKE3 of every byte before its own line break, so
//! that a flipped bit or a hasty edit is found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::codec::Codec;
use super::error::{CacheError, IoContext, Result};
use super::lossy::LossyError;
use super::sample::FeatureDtype;
use super::{CARD, FORMAT_VERSION, HEAD, MANIFEST, QUARANTINED};
use crate::ids::{Digest, Fingerprint, SampleKey};

/// The content of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `genrecal-cache`.
    pub format: String,
    /// [`FORMAT_VERSION`] of the program that wrote the cache.
    pub format_version: u32,
    /// Whether the run that fills the cache has finished.
    pub complete: bool,
    /// Digest of all fields of `fingerprint`.
    pub fingerprint_digest: Digest,
    /// What the features were made from and how.
    pub fingerprint: Fingerprint,
    /// How the features are stored.
    pub features: FeatureFormat,
    /// What a lossy codec changed, as measured when the rows were extracted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lossy_error: Option<LossyError>,
    /// Parts of the current run that have finished, as `I/N`, until the last of them completes the cache.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub parts_done: BTreeSet<String>,
    /// What damage has taken and no run has given back: without it the cache is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed: Option<Owed>,
    /// The conditions that every sample met when it was chosen from another cache, as they were written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub selected: Vec<String>,
    /// What the cache was made from, for people: names that are not identity.
    pub about: BTreeMap<String, String>,
    /// Digest of each dataset file read so far, by the name it was given as.
    pub dataset: BTreeMap<String, String>,
    /// Sums over all shards.
    pub totals: Totals,
    /// The teacher's head.
    pub head: FileEntry,
    /// The dataset card.
    pub card: Option<FileEntry>,
    /// The table of rows that could not become samples.
    pub quarantine: Option<FileEntry>,
    /// The shards, in order; the position is the shard's number.
    pub shards: Vec<ShardEntry>,
}

/// What a repair took out of a cache because it was damaged, until a run has extracted it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// The samples whose keys could still be read.
    pub keys: BTreeSet<SampleKey>,
    /// How many more there were.
    pub unnamed: u64,
    /// Whether the table of bad rows was lost as well.
    pub quarantine: bool,
    /// Whether the run that fills the cache had not finished anyway.
    pub unfinished: bool,
}

impl Owed {
    /// Samples in all.
    pub fn samples(&self) -> u64 {
        self.keys.len() as u64 + self.unnamed
    }

    /// Notes samples that are in the cache again; what is none of the named counts as one of the others.
    pub(super) fn give_back<'a>(&mut self, keys: impl IntoIterator<Item = &'a SampleKey>) {
        for key in keys {
            if !self.keys.remove(key) {
                self.unnamed = self.unnamed.saturating_sub(1);
            }
        }
    }
}

/// How features are stored, the same for every sample of a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureFormat {
    /// The teacher's own number type.
    pub dtype: FeatureDtype,
    /// Values per position.
    pub width: usize,
    /// How values become bytes.
    pub codec: Codec,
}

/// Counts over committed rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Samples.
    pub samples: u64,
    /// Rows in quarantine.
    pub quarantined: u64,
    /// Teacher tokens of all samples.
    pub tokens: u64,
    /// Positions with features.
    pub feature_rows: u64,
    /// Bytes of all shards.
    pub bytes: u64,
}

/// One file of the cache, as it must be found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the cache directory, with `/`.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3 digest.
    pub digest: Digest,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// The file.
    #[serde(flatten)]
    pub entry: FileEntry,
    /// Samples in it.
    pub samples: u64,
    /// Teacher tokens of its samples.
    pub tokens: u64,
    /// Positions with features in it.
    pub feature_rows: u64,
    /// Where its pages end: page indexes, footer and magic follow.
    pub tail_offset: u64,
    /// XXH3-64 of the bytes from `tail_offset` on, in hexadecimal; checked when the shard is opened.
    pub tail_xxh3: String,
}

const FORMAT: &str = "genrecal-cache";
/// Values of one position; the widest model known has 53,248.
const LARGEST_WIDTH: usize = 1 << 20;
const DIGEST_KEY: &str = ",\n  \"digest\": \"";
const END: &str = "\"\n}\n";

impl Manifest {
    /// A manifest without shards.
    pub(super) fn new(fingerprint: Fingerprint, features: FeatureFormat, head: FileEntry) -> Self {
        Self {
            format: FORMAT.into(),
            format_version: FORMAT_VERSION,
            complete: false,
            fingerprint_digest: fingerprint.digest(),
            fingerprint,
            features,
            lossy_error: None,
            parts_done: BTreeSet::new(),
            owed: None,
            selected: Vec::new(),
            about: BTreeMap::new(),
            dataset: BTreeMap::new(),
            totals: Totals::default(),
            head,
            card: None,
            quarantine: None,
            shards: Vec::new(),
        }
    }

    /// Reads and checks the manifest of the cache at `dir`.
    ///
    /// # Errors
    /// [`CacheError::NotACache`] if there is none, [`CacheError::Version`] for another format
    /// version, [`CacheError::Damaged`] if its bytes are not what was written.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        if !path.exists() {
            let hint = "give the directory that `extract run --out` wrote";
            return Err(CacheError::NotACache {
                path: dir.into(),
                reason: format!("it has no `{MANIFEST}`"),
                hint,
            });
        }
        Self::parse(&path, &std::fs::read(&path).at("read", &path)?)
    }

    /// Checks the bytes of a manifest, which lie at `path`.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let damaged = |reason: &str| CacheError::damaged(path, None, reason);
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("not UTF-8"))?;
        // The version comes first: another version may keep its digest elsewhere.
        #[derive(Deserialize)]
        struct Version {
            format: String,
            format_version: u32,
        }
        let version: Version =
            serde_json::from_str(text).map_err(|error| CacheError::damaged(path, None, error))?;
        if version.format != FORMAT {
            return Err(damaged(&format!("format is `{}`, expected `{FORMAT}`", version.format)));
        }
        if version.format_version != FORMAT_VERSION {
            let (found, expected) = (version.format_version, FORMAT_VERSION);
            return Err(CacheError::Version { path: path.into(), found, expected });
        }
        if !digest_holds(text) {
            return Err(damaged("its content does not match its `digest`: it was edited or damaged"));
        }
        let manifest: Self =
            serde_json::from_str(text).map_err(|error| CacheError::damaged(path, None, error))?;
        match manifest.implausible() {
            Some(reason) => Err(damaged(&reason)),
            None => Ok(manifest),
        }
    }

    /// What no writer of ours says: a signature keeps accidents away, not someone who signs.
    fn implausible(&self) -> Option<String> {
        let width = self.features.width;
        if !(1..=LARGEST_WIDTH).contains(&width) {
            return Some(format!("features of width {width}"));
        }
        // A name is a path that is opened: none may lead out of the cache.
        let shards = self.shards.iter().map(|shard| &shard.entry).filter(|entry| !is_shard_name(&entry.file));
        let others =
            [(Some(&self.head), HEAD), (self.card.as_ref(), CARD), (self.quarantine.as_ref(), QUARANTINED)];
        let others = others.into_iter().filter_map(|(entry, name)| entry.filter(|entry| entry.file != name));
        shards
            .chain(others)
            .next()
            .map(|entry| format!("`{}` is not the name of a file of a cache", entry.file))
    }

    /// The bytes of `manifest.json`.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let encode = |error: serde_json::Error| CacheError::Encode {
            path: MANIFEST.into(),
            reason: error.to_string(),
        };
        let text = serde_json::to_string_pretty(self).map_err(encode)?;
        Ok(Self::signed(&text).into_bytes())
    }

    /// The text of a JSON object, with its digest in place of the one that it may have.
    pub(super) fn signed(text: &str) -> String {
        let body = text.rfind(DIGEST_KEY).map_or(text.trim_end_matches(['}', '\n']), |end| &text[..end]);
        format!("{body}{}", signature(body.as_bytes()))
    }

    /// Recomputes the sums over shards.
    pub(super) fn add_up(&mut self) {
        let sum = |field: fn(&ShardEntry) -> u64| self.shards.iter().map(field).sum();
        self.totals = Totals {
            samples: sum(|shard| shard.samples),
            quarantined: self.totals.quarantined,
            tokens: sum(|shard| shard.tokens),
            feature_rows: sum(|shard| shard.feature_rows),
            bytes: sum(|shard| shard.entry.bytes),
        };
    }

    /// Every file of the cache but the manifest itself.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        let others = std::iter::once(&self.head).chain(&self.card).chain(&self.quarantine);
        self.shards.iter().map(|shard| &shard.entry).chain(others)
    }
}

/// `data/train-NNNNN.parquet` or `data/train-NNNNN-of-NNNNN.parquet`, with more digits where there are more shards.
fn is_shard_name(file: &str) -> bool {
    let name = file.strip_prefix("data/train-").and_then(|name| name.strip_suffix(".parquet"));
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    name.is_some_and(|name| name.splitn(2, "-of-").all(is_number))
}

/// Bytes of a [`signature`].
pub(super) const SIGNATURE_BYTES: usize = DIGEST_KEY.len() + 2 * size_of::<Digest>() + END.len();

/// What ends a manifest: the digest of everything before it.
pub(super) fn signature(body: &[u8]) -> String {
    format!("{DIGEST_KEY}{}{END}", Digest::of(body))
}

/// The digest in a signature, if it is whole.
pub(super) fn signed_digest(signature: &[u8]) -> Option<Digest> {
    let digest = signature.strip_prefix(DIGEST_KEY.as_bytes())?.strip_suffix(END.as_bytes())?;
    std::str::from_utf8(digest).ok()?.parse().ok()
}

fn digest_holds(text: &str) -> bool {
    let parts = text.len().checked_sub(SIGNATURE_BYTES).and_then(|end| text.as_bytes().split_at_checked(end));
    parts.is_some_and(|(body, written)| signature(body).as_bytes() == written)
}
