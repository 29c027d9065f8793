//! A manifest that is lost, made again from what it spoke of.
//!
//! The shards say all about their rows, and every row is checked. What they do not say is which teacher made them: that comes
//! from the caller, and counts only if something in the cache still confirms it, the digest of the fingerprint in what is left
//! of the manifest or the table in the card. What nothing else holds is gone: what a lossy codec cost, and by which conditions
//! samples were chosen.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rayon::prelude::*;

use super::begin::full_fingerprint;
use super::card::{card, field};
use super::commit::{
    Part, WriterLock, digest_of, entry_of, list, lock_manifest, replace_manifest, shard_name,
};
use super::error::{CacheError, IoContext, Result};
use super::head::write_head;
use super::identity::CacheIdentity;
use super::index::Shard;
use super::manifest::{FeatureFormat, FileEntry, Manifest, ShardEntry};
use super::parquet_file::ParquetFile;
use super::reader::load_quarantine;
use super::samples::Samples;
use super::schema::SHARD;
use super::source::{Access, FileBytes};
use super::{CARD, DATA, HEAD, MANIFEST, QUARANTINED};
use crate::ids::{Digest, Fingerprint};

/// No file has this digest: it is damaged or missing, for [`salvage`](super::salvage()) to see to.
const DAMAGED: Digest = Digest::from_bytes([0; 32]);

/// Makes the manifest of the cache at `dir` again, which was made with `identity`. What is damaged besides is in it as such.
///
/// # Errors
/// [`CacheError::BeyondRepair`] if nothing in the cache confirms the identity, [`CacheError::Locked`], and what the system
/// refuses.
pub fn restore_manifest(dir: &Path, identity: &CacheIdentity) -> Result<()> {
    let _lock = WriterLock::take(dir, Part::default())?;
    let _guard = lock_manifest(dir)?;
    let fingerprint = full_fingerprint(identity);
    if !is_confirmed(dir, &fingerprint) {
        let reason = "it is lost, and nothing confirms that the cache was made with this teacher and these settings: neither \
                      what is left of it nor `README.md`";
        return Err(CacheError::BeyondRepair { path: dir.join(MANIFEST), reason: reason.into() });
    }
    let format = FeatureFormat { dtype: identity.dtype, width: identity.width, codec: identity.codec };
    let names = shard_names(dir)?;
    let shards = names.files.par_iter().map(|file| shard_entry(dir, file, &format));
    let shards = shards.collect::<Result<Vec<_>>>()?;
    let mut manifest = Manifest::new(fingerprint, format, head_entry(dir, identity)?);
    manifest.about = identity.about.clone();
    manifest.dataset = identity.dataset.clone();
    // Of a shard whose end is damaged nobody knows how much was in it.
    manifest.complete = names.are_final && shards.iter().all(Option::is_some);
    let entries = shards.into_iter().zip(names.files);
    manifest.shards = entries.map(|(entry, file)| entry.unwrap_or_else(|| nothing_of(file))).collect();
    if dir.join(QUARANTINED).exists() {
        let entry = entry_of(&dir.join(QUARANTINED), QUARANTINED)?;
        let rows = load_quarantine(dir, Some(&entry));
        manifest.totals.quarantined = rows.as_ref().map_or(0, |rows| rows.len() as u64);
        manifest.quarantine = Some(if rows.is_ok() { entry } else { FileEntry { digest: DAMAGED, ..entry } });
    }
    manifest.add_up();
    if dir.join(CARD).exists() {
        let entry = entry_of(&dir.join(CARD), CARD)?;
        let is_right = entry.digest == Digest::of(card(&manifest).as_bytes());
        manifest.card = Some(if is_right { entry } else { FileEntry { digest: DAMAGED, ..entry } });
    }
    replace_manifest(dir, &manifest.to_bytes()?)
}

/// Whether the cache itself says that this is its fingerprint.
fn is_confirmed(dir: &Path, fingerprint: &Fingerprint) -> bool {
    let text = |name| fs::read(dir.join(name)).unwrap_or_default();
    let (manifest, card) = (text(MANIFEST), text(CARD));
    let card = String::from_utf8_lossy(&card);
    String::from_utf8_lossy(&manifest).contains(&fingerprint.digest().to_string())
        || fingerprint.fields.iter().all(|(name, value)| card.contains(&field(name, value)))
}

/// The shards that there are or were, in order.
struct ShardNames {
    files: Vec<String>,
    /// Whether the names are those of a complete cache.
    are_final: bool,
}

/// `train-00003-of-00010.parquet` also says that there were ten.
fn shard_names(dir: &Path) -> Result<ShardNames> {
    let mut totals = Vec::new();
    let mut found = BTreeMap::new();
    for path in list(&dir.join(DATA))? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = name.strip_prefix("train-").and_then(|name| name.strip_suffix(".parquet"));
        let Some((number, total)) = stem.map(|stem| stem.split_once("-of-").unwrap_or((stem, ""))) else {
            continue;
        };
        if let Ok(number) = number.parse::<usize>() {
            totals.push(total.parse::<usize>().ok());
            found.insert(number, format!("{DATA}/{name}"));
        }
    }
    let last = found.keys().next_back().map_or(0, |last| last + 1);
    let total = totals.iter().flatten().copied().max().unwrap_or(0).max(last);
    // A number that a name makes up is no reason to make up files.
    if total > found.len().saturating_mul(2) + 1000 {
        return Err(CacheError::damaged(
            &dir.join(DATA),
            None,
            format!("{} of {total} shards are there", found.len()),
        ));
    }
    let are_final = !totals.is_empty() && totals.iter().all(|of| *of == Some(total));
    let name =
        |number| found.remove(&number).unwrap_or_else(|| shard_name(number, are_final.then_some(total)));
    Ok(ShardNames { files: (0..total).map(name).collect(), are_final })
}

/// A shard as it is; none if it does not tell how much is in it.
fn shard_entry(dir: &Path, file: &str, format: &FeatureFormat) -> Result<Option<ShardEntry>> {
    let path = dir.join(file);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = FileBytes::open(&path, Access::Plain)?;
    let Ok(file_of) = ParquetFile::open(path.clone(), bytes, &SHARD) else { return Ok(None) };
    let shard = Shard::of(file_of);
    let tail_offset = shard.tail_offset();
    let tail = shard.bytes().get(tail_offset..shard.bytes().len()).at("read", &path)?;
    let mut entry = ShardEntry {
        entry: FileEntry { file: file.to_owned(), bytes: shard.bytes().len() as u64, digest: DAMAGED },
        samples: shard.num_rows() as u64,
        tokens: 0,
        feature_rows: 0,
        tail_offset: tail_offset as u64,
        tail_xxh3: format!("{:016x}", super::xxh3::hash(&tail)),
    };
    let Ok(index) = shard.index() else { return Ok(Some(entry)) };
    entry.tokens = index.iter().map(|sample| u64::from(sample.num_tokens)).sum();
    entry.feature_rows = index.iter().map(|sample| u64::from(sample.num_positions)).sum();
    let samples = Samples::new(format.clone(), vec![(shard, index)], true);
    let is_sound = |i: usize| samples.row(i).is_ok_and(|row| row.check(format.dtype, format.width).is_ok());
    if (0..samples.index.len()).all(is_sound) {
        entry.entry.digest = digest_of(&path)?;
    }
    Ok(Some(entry))
}

fn nothing_of(file: String) -> ShardEntry {
    ShardEntry {
        entry: FileEntry { file, bytes: 0, digest: DAMAGED },
        samples: 0,
        tokens: 0,
        feature_rows: 0,
        tail_offset: 0,
        tail_xxh3: String::new(),
    }
}

/// The head, which is the teacher's to the byte or damaged.
fn head_entry(dir: &Path, identity: &CacheIdentity) -> Result<FileEntry> {
    let aside = dir.join(format!("{HEAD}.tmp"));
    write_head(&aside, &identity.head)?;
    let expected = entry_of(&aside, HEAD)?;
    fs::remove_file(&aside).at("remove", &aside)?;
    Ok(expected)
}
