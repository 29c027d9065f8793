//! Repair's first half: what is sound stays, what is damaged goes, in one commit.
//!
//! A damaged shard is written again under its own name with the rows that still pass every check;
//! the others are no longer in the cache, so that the next run over the same data extracts exactly
//! those. Head, card and quarantine table are made again from what the caller has.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::begin::{full_fingerprint, refuse_other};
use super::buffers::Buffers;
use super::codec::Codec;
use super::commit::{
    Part, Staged, WriterLock, commit, digest_of, entry_of, locate, lock_manifest, roll_forward,
};
use super::error::Result;
use super::head::write_head;
use super::identity::{CacheIdentity, WriterOptions};
use super::index::Shard;
use super::manifest::{FileEntry, Manifest, Owed, ShardEntry};
use super::sample::Row;
use super::samples::Samples;
use super::shard::{EncodedRow, FinishedShard, ShardWriter};
use super::source::Access;
use super::{HEAD, QUARANTINED};

/// Rows read and encoded at a time.
const ROWS_AT_ONCE: usize = 64;

/// What was wrong with a cache and has been taken out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// The damaged or missing files, by their names in the cache.
    pub files: Vec<String>,
    /// Samples that are no longer in the cache.
    pub lost: u64,
    /// Samples of damaged shards that were saved.
    pub saved: u64,
}

/// Takes everything damaged out of the cache at `dir`, which is made with `identity`. Whoever opens it next finds a
/// sound cache, unfinished if anything was wrong, whose manifest says what it owes.
///
/// # Errors
/// [`CacheError::OtherFingerprint`](super::CacheError::OtherFingerprint), [`CacheError::Locked`](super::CacheError::Locked),
/// damage of the manifest, and what the system refuses.
pub fn salvage(dir: &Path, identity: &CacheIdentity, options: WriterOptions) -> Result<Salvaged> {
    let part = Part::default();
    let _lock = WriterLock::take(dir, part)?;
    let _guard = lock_manifest(dir)?;
    let mut manifest = Manifest::load(dir)?;
    refuse_other(dir, &manifest, &full_fingerprint(identity))?;
    roll_forward(dir, Some(&manifest), part)?;
    let mut salvaged = Salvaged::default();
    let mut owed =
        manifest.owed.take().unwrap_or_else(|| Owed { unfinished: !manifest.complete, ..Owed::default() });
    let mut staged = Vec::new();
    for number in damaged_shards(dir, &manifest) {
        let shard = Damaged { dir, manifest: &manifest, number, options };
        let (entry, file) = shard.write_again(&mut salvaged, &mut owed)?;
        manifest.shards[number] = entry;
        staged.push(file);
    }
    let is_damaged = |entry: &FileEntry| !is_sound(dir, entry);
    if is_damaged(&manifest.head) {
        let aside = dir.join(format!("{HEAD}.tmp"));
        write_head(&aside, &identity.head)?;
        manifest.head = entry_of(&aside, HEAD)?;
        staged.push(Staged { aside, file: HEAD.into() });
        salvaged.files.push(HEAD.into());
    }
    // The next run fills the table again, and its end writes the card.
    for slot in [&mut manifest.quarantine, &mut manifest.card] {
        if let Some(entry) = slot.take_if(|entry| is_damaged(entry)) {
            salvaged.files.push(entry.file);
        }
    }
    if salvaged.files.is_empty() {
        return Ok(salvaged);
    }
    if salvaged.files.iter().any(|file| file == QUARANTINED) {
        manifest.totals.quarantined = 0;
        owed.quarantine = true;
    }
    manifest.owed = Some(owed);
    manifest.complete = false;
    manifest.add_up();
    commit(dir, &staged, &manifest)?;
    Ok(salvaged)
}

fn is_sound(dir: &Path, entry: &FileEntry) -> bool {
    digest_of(&locate(dir, entry)).is_ok_and(|digest| digest == entry.digest)
}

/// The numbers of the shards whose bytes are not what was written.
fn damaged_shards(dir: &Path, manifest: &Manifest) -> Vec<usize> {
    let damaged = |(number, shard): (usize, &ShardEntry)| (!is_sound(dir, &shard.entry)).then_some(number);
    manifest.shards.par_iter().enumerate().filter_map(damaged).collect()
}

/// One damaged shard.
struct Damaged<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
    number: usize,
    options: WriterOptions,
}

impl Damaged<'_> {
    /// Writes a new shard of the rows that are sound, perhaps none.
    fn write_again(&self, salvaged: &mut Salvaged, owed: &mut Owed) -> Result<(ShardEntry, Staged)> {
        let old = &self.manifest.shards[self.number];
        let codec = self.manifest.features.codec;
        let aside = self.options.part.aside(self.dir, self.number);
        let group_bytes = self.options.row_group_bytes;
        let buffers = Arc::<Buffers>::default();
        let mut shard = ShardWriter::create(aside, codec, group_bytes, buffers.clone())?;
        let mut found = Vec::new();
        if let Some(samples) = self.samples(old) {
            found.extend(samples.index.iter().map(|entry| entry.key));
            let numbers: Vec<usize> = (0..samples.index.len()).collect();
            for some in numbers.chunks(ROWS_AT_ONCE) {
                let rows: Vec<Row> = some.par_iter().filter_map(|&i| samples.row(i).ok()).collect();
                for row in encode(&rows, codec, &buffers)? {
                    if !shard.keys.contains(&row.key) {
                        shard.push(row)?;
                    }
                }
            }
        }
        let FinishedShard { path, mut entry, keys, .. } = shard.finish()?;
        entry.entry.file.clone_from(&old.entry.file);
        let saved = keys.len() as u64;
        let lost = old.samples.saturating_sub(saved);
        let before = owed.keys.len();
        owed.keys.extend(found.into_iter().filter(|key| !keys.contains(key)));
        owed.unnamed += lost.saturating_sub((owed.keys.len() - before) as u64);
        salvaged.files.push(old.entry.file.clone());
        salvaged.saved += saved;
        salvaged.lost += lost;
        Ok((entry, Staged { aside: path, file: old.entry.file.clone() }))
    }

    /// What of the shard can be found at all; nothing if its end is damaged, which says where everything lies.
    fn samples(&self, entry: &ShardEntry) -> Option<Samples> {
        // Plain reads: a sector that cannot be read costs its row, where a map would end the process.
        let shard = Shard::open_longer(locate(self.dir, &entry.entry), entry, Access::Plain).ok()?;
        let index = shard.sound_index();
        let format = self.manifest.features.clone();
        Some(Samples::new(format, vec![(shard, index)], true))
    }
}

fn encode(rows: &[Row], codec: Codec, buffers: &Buffers) -> Result<Vec<EncodedRow>> {
    rows.par_iter().map(|row| EncodedRow::new(row, codec, None, buffers)).collect()
}
