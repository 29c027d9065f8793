//! Writing a cache: rows become pages, pages shards, and a shard counts once the manifest names it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::begin::{create, refuse_foreign, resume};
use super::buffers::Buffers;
use super::card::card;
use super::commit::{
    Part, Staged, WriterLock, commit, entry_of, locate, lock_manifest, roll_forward, shard_name, write_synced,
};
use super::error::{CacheError, IoContext, Result};
use super::identity::{CacheIdentity, WriterOptions};
use super::index::Shard;
use super::lossy::{HeadMatrix, POSITIONS_PER_CACHE, POSITIONS_PER_SAMPLE, positions_measured};
use super::manifest::{Manifest, ShardEntry};
use super::reader::load_quarantine;
use super::sample::{QuarantinedRow, Row};
use super::schema::{QUARANTINE, quarantined_to_cells};
use super::shard::{EncodedRow, FinishedShard, ShardWriter};
use super::source::Access;
use super::space::free_bytes;
use super::table::write_table;
use super::{CARD, DATA, MANIFEST, QUARANTINED};
use crate::ids::SampleKey;

/// The writer of one cache, or of one part of it.
///
/// Rows between commits are lost with the process, nothing else is: [`CacheWriter::commit`] now and
/// then, or leave it to shards that are full. Dropping the writer commits nothing.
pub struct CacheWriter {
    dir: PathBuf,
    options: WriterOptions,
    manifest: Manifest,
    committed: HashSet<SampleKey>,
    /// Positions of all samples, committed or not, that would show what a lossy codec costs.
    measurable: u64,
    /// What the samples were chosen by, where they come from another cache.
    selected: Vec<String>,
    quarantined: Vec<QuarantinedRow>,
    /// Quarantined rows since the last commit, and rows that got well since.
    news: BTreeMap<(String, u64), Option<QuarantinedRow>>,
    shard: Option<ShardWriter>,
    num_shards: usize,
    buffers: Arc<Buffers>,
    /// Where the error of a lossy codec is to be measured.
    head: Option<HeadMatrix>,
    lock: WriterLock,
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
        let head = match identity.codec.is_lossy() && identity.lossy_error.is_none() {
            true => HeadMatrix::open(&locate(&dir, &manifest.head), identity.width)?,
            false => None,
        };
        let mut writer = Self {
            head,
            quarantined: load_quarantine(&dir, manifest.quarantine.as_ref())?,
            committed: HashSet::new(),
            measurable: 0,
            selected: identity.selected.clone(),
            news: BTreeMap::new(),
            shard: None,
            num_shards: 0,
            buffers: Arc::default(),
            lock,
            dir,
            options,
            manifest,
        };
        writer.learn(known_of(&writer.dir, &writer.manifest.shards)?);
        Ok(writer)
    }

    /// The keys of all committed samples, those of other parts as of the last commit.
    pub fn committed_keys(&self) -> &HashSet<SampleKey> {
        &self.committed
    }

    /// Whether a sample is in the cache, committed or not.
    pub fn has(&self, key: &SampleKey) -> bool {
        self.committed.contains(key) || self.shard.as_ref().is_some_and(|shard| shard.keys.contains(key))
    }

    /// Whether anything waits for a commit.
    pub fn has_news(&self) -> bool {
        self.shard.is_some() || !self.news.is_empty()
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
        if let Some(key) = rows.iter().map(|row| row.meta.key).find(|key| self.has(key) || !seen.insert(*key))
        {
            return Err(CacheError::Duplicate { key: key.to_string() });
        }
        let (codec, measured) = (format.codec, self.rows_to_measure(&rows));
        let encode = |(i, row): (usize, &Row)| {
            EncodedRow::new(row, codec, self.head.as_ref().filter(|_| measured.contains(&i)), &self.buffers)
        };
        let encoded = rows.par_iter().enumerate().map(encode).collect::<Result<Vec<_>>>()?;
        for (row, encoded) in rows.iter().zip(encoded) {
            self.recover(&row.meta.source, row.meta.row);
            self.measurable += positions_measured(row.meta.positions.len());
            self.push(encoded)?;
        }
        Ok(())
    }

    /// Records a row that could not become a sample; it is committed with the next samples.
    pub fn quarantine(&mut self, row: QuarantinedRow) {
        if self.quarantined.contains(&row) {
            return;
        }
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
    /// its numbers. Of several parts, the last one to get here completes it.
    ///
    /// # Errors
    /// As [`CacheWriter::commit`].
    pub fn finish(mut self) -> Result<Manifest> {
        let shard = self.shard.take().map(ShardWriter::finish).transpose()?;
        let _guard = lock_manifest(&self.dir)?;
        self.commit_locked(shard, true)?;
        Ok(self.manifest.clone())
    }

    /// Which of the next rows show the error of a lossy codec: as many as are wanted, after those that take the place of rows
    /// that were measured and lost.
    fn rows_to_measure(&self, rows: &[Row]) -> Range<usize> {
        let errors = [self.manifest.lossy_error, self.shard.as_ref().map(|shard| shard.error)];
        let measured: u64 = errors.into_iter().flatten().map(|error| error.positions).sum();
        let mut known = self.measurable;
        let comes_back = |row: &&Row| {
            let is_one = known < measured;
            known += positions_measured(row.meta.positions.len());
            is_one
        };
        let start = rows.iter().take_while(comes_back).count();
        start..start + POSITIONS_PER_CACHE.saturating_sub(measured) as usize / POSITIONS_PER_SAMPLE
    }

    /// Notes committed samples.
    fn learn(&mut self, known: Vec<(Vec<SampleKey>, u64)>) {
        for (keys, measurable) in known {
            self.committed.extend(keys);
            self.measurable += measurable;
        }
    }

    fn push(&mut self, row: EncodedRow) -> Result<()> {
        let shard = match &mut self.shard {
            Some(shard) => shard,
            None => {
                self.num_shards += 1;
                let path = self.options.part.aside(&self.dir, self.num_shards);
                let codec = self.manifest.features.codec;
                let (group_bytes, buffers) = (self.options.row_group_bytes, self.buffers.clone());
                self.shard.insert(ShardWriter::create(path, codec, group_bytes, buffers)?)
            }
        };
        shard.push(row)?;
        if shard.bytes() >= self.options.shard_bytes {
            self.commit()?;
        }
        let keep_free = self.options.keep_free;
        // Not asked for nothing: there are file systems that do not say.
        let free = if keep_free > 0 { free_bytes(&self.dir)? } else { u64::MAX };
        if free < keep_free {
            self.commit()?;
            return Err(CacheError::SpaceLow { path: self.dir.clone(), free, keep_free });
        }
        Ok(())
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
        let now = Manifest::load(&self.dir)?;
        let Some(others) = self.shards_of_others(&now) else {
            return Err(CacheError::Replaced { path: self.dir.clone() });
        };
        let others = known_of(&self.dir, others)?;
        self.learn(others);
        self.manifest = now;
        self.manifest.complete = false;
        let mut staged = Vec::new();
        if let Some(shard) = shard {
            staged.push(self.add_shard(shard)?);
        }
        staged.extend(self.stage_quarantine()?);
        self.manifest.add_up();
        let completes = finish
            && self.is_last_part()
            && self.manifest.owed.as_ref().is_none_or(|owed| owed.samples() == 0);
        if completes {
            self.manifest.owed = None;
            staged.extend(self.stage_end()?);
        }
        commit(&self.dir, &staged, &self.manifest)?;
        if completes {
            // The shards' final names are committed; giving them is the last step of the protocol.
            roll_forward(&self.dir, Some(&self.manifest), self.options.part)?;
        }
        Ok(())
    }

    /// What others have committed since; none if the directory holds another cache by now.
    fn shards_of_others<'a>(&self, now: &'a Manifest) -> Option<&'a [ShardEntry]> {
        let (known, others) = now.shards.split_at_checked(self.manifest.shards.len())?;
        // Others may have given them their final names.
        let are_ours = known
            .iter()
            .zip(&self.manifest.shards)
            .all(|(now, known)| now.entry.digest == known.entry.digest);
        (are_ours && now.fingerprint == self.manifest.fingerprint && self.lock.is_of(&self.dir))
            .then_some(others)
    }

    /// Notes that this part has finished; whether it was the last of them.
    fn is_last_part(&mut self) -> bool {
        let Part { count, .. } = self.options.part;
        let names: BTreeSet<String> = (0..count).map(|index| Part { index, count }.to_string()).collect();
        let done = &mut self.manifest.parts_done;
        done.insert(self.options.part.to_string());
        // What runs with another number of parts left says nothing about this one.
        done.retain(|part| names.contains(part));
        let is_last = *done == names;
        if is_last {
            done.clear();
        }
        is_last
    }

    fn add_shard(&mut self, shard: FinishedShard) -> Result<Staged> {
        let FinishedShard { path, mut entry, keys, error } = shard;
        if let Some(key) = keys.iter().find(|key| self.committed.contains(*key)) {
            let key = key.to_string();
            fs::remove_file(&path).at("remove", &path)?;
            return Err(CacheError::Duplicate { key });
        }
        entry.entry.file = shard_name(self.manifest.shards.len(), None);
        let staged = Staged { aside: path, file: entry.entry.file.clone() };
        self.manifest.shards.push(entry);
        if self.head.is_some() {
            self.manifest.lossy_error.get_or_insert_default().add(&error);
        }
        if let Some(owed) = &mut self.manifest.owed {
            owed.give_back(&keys);
        }
        if self.manifest.selected != self.selected {
            // Not all of its samples were chosen by the same any more.
            self.manifest.selected.clear();
        }
        self.committed.extend(keys);
        Ok(staged)
    }

    fn stage_quarantine(&mut self) -> Result<Option<Staged>> {
        if self.news.is_empty() {
            return Ok(None);
        }
        let mut rows: BTreeMap<_, _> = load_quarantine(&self.dir, self.manifest.quarantine.as_ref())?
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

/// The keys in committed shards, and how many positions of their samples would show what a lossy codec costs.
fn known_of(dir: &Path, shards: &[ShardEntry]) -> Result<Vec<(Vec<SampleKey>, u64)>> {
    let known = |entry: &ShardEntry| -> Result<_> {
        let index = Shard::open(locate(dir, &entry.entry), entry, Access::Map)?.index()?;
        let measurable = index.iter().map(|sample| positions_measured(sample.num_positions as usize)).sum();
        Ok((index.into_iter().map(|sample| sample.key).collect(), measurable))
    };
    shards.par_iter().map(known).collect()
}
