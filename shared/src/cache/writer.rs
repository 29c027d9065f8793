//! Writing a cache: rows become pages, pages shards, and a shard counts once the manifest names it.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::card::card;
use super::commit::{
    Part, Staged, WriterLock, commit, entry_of, list, locate, lock_manifest, roll_forward, shard_name,
    write_synced,
};
use super::error::{CacheError, IoContext, Result};
use super::head::{HeadTensor, write_head};
use super::index::Shard;
use super::manifest::{FeatureFormat, Manifest, ShardEntry};
use super::reader::load_quarantine;
use super::sample::{FeatureDtype, QuarantinedRow, Row};
use super::schema::{QUARANTINE, quarantined_to_cells};
use super::shard::{EncodedRow, FinishedShard, ShardWriter};
use super::table::write_table;
use super::{CARD, DATA, FORMAT_VERSION, HEAD, MANIFEST, QUARANTINED};
use crate::ids::{Fingerprint, SampleKey};

/// What a cache is made from: its identity, the teacher's head, and names for people.
#[derive(Clone, Debug)]
pub struct CacheIdentity<'a> {
    /// Everything that decides the features; the writer adds its own format, dtype, width and codec.
    pub fingerprint: Fingerprint,
    /// The teacher's number type.
    pub dtype: FeatureDtype,
    /// Values per position.
    pub width: usize,
    /// The teacher's head; written when the cache is created.
    pub head: Vec<HeadTensor<'a>>,
    /// Facts that are not identity: the teacher's name, the command line.
    pub about: BTreeMap<String, String>,
    /// Digest of each dataset file, by the name it was given as; further files join those before.
    pub dataset: BTreeMap<String, String>,
}

/// How a cache is written; none of it changes a value that is read back.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// A shard is committed once it is this large.
    pub shard_bytes: usize,
    /// A row group of a shard ends once its feature pages are this large; they are held in memory.
    pub row_group_bytes: usize,
    /// Which of several processes on this cache this is.
    pub part: Part,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { shard_bytes: 256 << 20, row_group_bytes: 64 << 20, part: Part::default() }
    }
}

/// The writer of one cache, or of one part of it.
///
/// Rows between commits are lost with the process, nothing else is: [`CacheWriter::commit`] now and
/// then, or leave it to shards that are full. Dropping the writer commits nothing.
pub struct CacheWriter {
    dir: PathBuf,
    options: WriterOptions,
    manifest: Manifest,
    committed: HashSet<SampleKey>,
    quarantined: Vec<QuarantinedRow>,
    /// Quarantined rows since the last commit, and rows that got well since.
    news: BTreeMap<(String, u64), Option<QuarantinedRow>>,
    shard: Option<ShardWriter>,
    num_shards: usize,
    _lock: WriterLock,
}

impl CacheWriter {
    /// Creates the cache at `dir`, or continues it.
    ///
    /// # Errors
    /// [`CacheError::OtherFingerprint`] with the differing fields, [`CacheError::Locked`] if another
    /// process writes it, [`CacheError::NotACache`] if the directory holds something else, damage of
    /// the manifest or an index, and what the system refuses.
    pub fn open(dir: impl AsRef<Path>, identity: CacheIdentity, options: WriterOptions) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        refuse_foreign(&dir)?;
        let data = dir.join(DATA);
        fs::create_dir_all(&data).at("create", &data)?;
        let lock = WriterLock::take(&dir, options.part)?;
        let _guard = lock_manifest(&dir)?;
        let manifest = match dir.join(MANIFEST).exists() {
            true => resume(&dir, &identity, options.part)?,
            false => create(&dir, &identity, options.part)?,
        };
        let mut writer = Self {
            quarantined: load_quarantine(&dir, &manifest)?,
            committed: HashSet::new(),
            news: BTreeMap::new(),
            shard: None,
            num_shards: 0,
            _lock: lock,
            dir,
            options,
            manifest,
        };
        writer.committed = keys_of(&writer.dir, &writer.manifest.shards)?.into_iter().collect();
        Ok(writer)
    }

    /// The keys of all committed samples, those of other parts as of the last commit.
    pub fn committed_keys(&self) -> &HashSet<SampleKey> {
        &self.committed
    }

    /// The committed quarantined rows.
    pub fn quarantined(&self) -> &[QuarantinedRow] {
        &self.quarantined
    }

    /// What is committed so far.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Appends one row; commits when the shard is full.
    ///
    /// # Errors
    /// [`CacheError::Invariant`] or [`CacheError::Duplicate`] for a bad row, which leaves the writer
    /// usable; anything else ends it, with what was committed intact.
    pub fn append(&mut self, row: Row) -> Result<()> {
        self.append_batch(vec![row])
    }

    /// Appends rows, encoding them on all threads; commits when the shard is full.
    ///
    /// # Errors
    /// As [`CacheWriter::append`]; rows are checked before any of them is appended.
    pub fn append_batch(&mut self, rows: Vec<Row>) -> Result<()> {
        let format = &self.manifest.features;
        rows.iter().try_for_each(|row| row.check(format.dtype, format.width))?;
        let mut seen = HashSet::new();
        let pending = self.shard.as_ref().map(|shard| &shard.keys);
        let known =
            |key: &SampleKey| self.committed.contains(key) || pending.is_some_and(|keys| keys.contains(key));
        if let Some(key) = rows.iter().map(|row| row.meta.key).find(|key| known(key) || !seen.insert(*key)) {
            return Err(CacheError::Duplicate { key: key.to_string() });
        }
        let encoded = rows.par_iter().map(EncodedRow::new).collect::<Result<Vec<_>>>()?;
        for (row, encoded) in rows.iter().zip(encoded) {
            self.recover(&row.meta.source, row.meta.row);
            self.push(encoded)?;
        }
        Ok(())
    }

    /// Records a row that could not become a sample; it is committed with the next samples.
    pub fn quarantine(&mut self, row: QuarantinedRow) {
        self.news.insert((row.source.clone(), row.row), Some(row));
    }

    /// Makes everything appended so far permanent.
    ///
    /// # Errors
    /// What the system refuses; what was committed before stays valid.
    pub fn commit(&mut self) -> Result<()> {
        let shard = self.shard.take().map(ShardWriter::finish).transpose()?;
        if shard.is_none() && self.news.is_empty() {
            return Ok(());
        }
        let _guard = lock_manifest(&self.dir)?;
        self.commit_locked(shard, false)
    }

    /// Commits what is left and declares the cache complete: shards get their final names, the card
    /// its numbers. With several parts, only the last one to finish should call it.
    ///
    /// # Errors
    /// As [`CacheWriter::commit`].
    pub fn finish(mut self) -> Result<Manifest> {
        let shard = self.shard.take().map(ShardWriter::finish).transpose()?;
        let _guard = lock_manifest(&self.dir)?;
        self.commit_locked(shard, true)?;
        Ok(self.manifest.clone())
    }

    fn push(&mut self, row: EncodedRow) -> Result<()> {
        let shard = match &mut self.shard {
            Some(shard) => shard,
            None => {
                self.num_shards += 1;
                let path = self.options.part.aside(&self.dir, self.num_shards);
                self.shard.insert(ShardWriter::create(path, self.options.row_group_bytes)?)
            }
        };
        shard.push(row)?;
        if shard.bytes() >= self.options.shard_bytes { self.commit() } else { Ok(()) }
    }

    /// A row that was in quarantine and is a sample now leaves the quarantine.
    fn recover(&mut self, source: &str, row: u64) {
        let place = (source.to_string(), row);
        self.news.remove(&place);
        if self.quarantined.iter().any(|old| old.row == row && old.source == source) {
            self.news.insert(place, None);
        }
    }

    /// One turn of the commit protocol, on the manifest as it is now: other parts may have changed it.
    fn commit_locked(&mut self, shard: Option<FinishedShard>, finish: bool) -> Result<()> {
        let known = self.manifest.shards.len();
        self.manifest = Manifest::load(&self.dir)?;
        self.manifest.complete = false;
        let others = keys_of(&self.dir, &self.manifest.shards[known..])?;
        self.committed.extend(others);
        let mut staged = Vec::new();
        if let Some(shard) = shard {
            staged.push(self.add_shard(shard)?);
        }
        staged.extend(self.stage_quarantine()?);
        self.manifest.add_up();
        if finish {
            staged.extend(self.stage_end()?);
        }
        commit(&self.dir, &staged, &self.manifest)?;
        if finish {
            // The shards' final names are committed; giving them is the last step of the protocol.
            roll_forward(&self.dir, Some(&self.manifest), self.options.part)?;
        }
        Ok(())
    }

    fn add_shard(&mut self, shard: FinishedShard) -> Result<Staged> {
        let FinishedShard { path, mut entry, keys } = shard;
        if let Some(key) = keys.iter().find(|key| self.committed.contains(*key)) {
            let key = key.to_string();
            fs::remove_file(&path).at("remove", &path)?;
            return Err(CacheError::Duplicate { key });
        }
        entry.entry.file = shard_name(self.manifest.shards.len(), None);
        let staged = Staged { aside: path, file: entry.entry.file.clone() };
        self.manifest.shards.push(entry);
        self.committed.extend(keys);
        Ok(staged)
    }

    fn stage_quarantine(&mut self) -> Result<Option<Staged>> {
        if self.news.is_empty() {
            return Ok(None);
        }
        let mut rows: BTreeMap<_, _> = load_quarantine(&self.dir, &self.manifest)?
            .into_iter()
            .map(|row| ((row.source.clone(), row.row), row))
            .collect();
        for (place, row) in std::mem::take(&mut self.news) {
            match row {
                Some(row) => rows.insert(place, row),
                None => rows.remove(&place),
            };
        }
        self.quarantined = rows.into_values().collect();
        let aside = self.dir.join(format!("{QUARANTINED}.tmp"));
        write_table(&aside, &QUARANTINE, self.quarantined.iter().map(quarantined_to_cells))?;
        self.manifest.quarantine = Some(entry_of(&aside, QUARANTINED)?);
        self.manifest.totals.quarantined = self.quarantined.len() as u64;
        Ok(Some(Staged { aside, file: QUARANTINED.into() }))
    }

    /// Final names and the card.
    fn stage_end(&mut self) -> Result<Option<Staged>> {
        self.manifest.complete = true;
        let total = self.manifest.shards.len();
        for (number, shard) in self.manifest.shards.iter_mut().enumerate() {
            shard.entry.file = shard_name(number, Some(total));
        }
        let aside = self.dir.join(format!("{CARD}.tmp"));
        write_synced(&aside, card(&self.manifest).as_bytes())?;
        let entry = entry_of(&aside, CARD)?;
        if self.manifest.card.replace(entry.clone()) == Some(entry) {
            fs::remove_file(&aside).at("remove", &aside)?;
            return Ok(None);
        }
        Ok(Some(Staged { aside, file: CARD.into() }))
    }
}

/// The keys in committed shards.
fn keys_of(dir: &Path, shards: &[ShardEntry]) -> Result<Vec<SampleKey>> {
    let keys = |entry: &ShardEntry| -> Result<Vec<SampleKey>> {
        let shard = Shard::open(locate(dir, &entry.entry), entry)?;
        Ok(shard.index(0)?.into_iter().map(|entry| entry.key).collect())
    };
    let parts = shards.par_iter().map(keys).collect::<Result<Vec<_>>>()?;
    Ok(parts.into_iter().flatten().collect())
}

/// A directory with anything but a cache in it is left alone.
fn refuse_foreign(dir: &Path) -> Result<()> {
    if !dir.exists() || dir.join(MANIFEST).exists() {
        return Ok(());
    }
    let ours = |name: &str| {
        name.starts_with('.') || name == DATA || name.starts_with(HEAD) || name.ends_with(".tmp")
    };
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match list(dir)?.iter().filter_map(name).find(|name| !ours(name)) {
        Some(name) => Err(CacheError::NotACache {
            path: dir.into(),
            reason: format!("it has no `{MANIFEST}` but holds `{name}`"),
            hint: "give `--out` a new or empty directory",
        }),
        None => Ok(()),
    }
}

/// The identity with the facts of the format itself.
fn full_fingerprint(identity: &CacheIdentity) -> Fingerprint {
    let mut fingerprint = identity.fingerprint.clone();
    fingerprint.insert("format_version", FORMAT_VERSION);
    fingerprint.insert("dtype", identity.dtype);
    fingerprint.insert("width", identity.width);
    fingerprint.insert("codec", CODEC);
    fingerprint
}

/// The only codec of this version.
const CODEC: &str = "lossless";

fn create(dir: &Path, identity: &CacheIdentity, part: Part) -> Result<Manifest> {
    roll_forward(dir, None, part)?;
    let aside = dir.join(format!("{HEAD}.tmp"));
    write_head(&aside, &identity.head)?;
    let format = FeatureFormat { dtype: identity.dtype, width: identity.width, codec: CODEC.into() };
    let mut manifest = Manifest::new(full_fingerprint(identity), format, entry_of(&aside, HEAD)?);
    manifest.about = identity.about.clone();
    manifest.dataset = identity.dataset.clone();
    commit(dir, &[Staged { aside, file: HEAD.into() }], &manifest)?;
    Ok(manifest)
}

fn resume(dir: &Path, identity: &CacheIdentity, part: Part) -> Result<Manifest> {
    let mut manifest = Manifest::load(dir)?;
    let differences = manifest.fingerprint.differences(&full_fingerprint(identity));
    if !differences.is_empty() {
        return Err(CacheError::OtherFingerprint { path: dir.into(), differences });
    }
    roll_forward(dir, Some(&manifest), part)?;
    let before = manifest.dataset.clone();
    manifest.dataset.extend(identity.dataset.clone());
    if manifest.dataset != before {
        commit(dir, &[], &manifest)?;
    }
    Ok(manifest)
}
