//! A shard opened for reading: its map and its part of the index.

use std::ops::Range;
use std::path::{Path, PathBuf};

use parquet::file::page_index::offset_index::PageLocation;

use super::error::{CacheError, IoContext, Result};
use super::manifest::ShardEntry;
use super::packed::{delta_integers, delta_texts, plain_longs};
use super::page::{DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, PLAIN};
use super::parquet_file::ParquetFile;
use super::schema::{Cell, FEATURES, KEY, SAMPLE_XXH3, SHARD, Take};
use super::shard_file::MAGIC;
use super::source::{Access, FileBytes};
use super::xxh3;
use crate::ids::SampleKey;

/// What is held in memory of each sample: 48 bytes, and 4 for finding it by key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct IndexEntry {
    pub(super) key: SampleKey,
    /// The row in its shard.
    pub(super) row: u32,
    /// Where the feature page begins in the shard, and its length with the header.
    pub(super) page_offset: u64,
    pub(super) page_bytes: u32,
    pub(super) num_tokens: u32,
    pub(super) num_positions: u32,
    pub(super) features_xxh3: u64,
}

/// Digits of a key, as it is stored.
const KEY_DIGITS: usize = 32;

/// One opened shard.
pub(super) struct Shard {
    file: ParquetFile,
}

impl Shard {
    /// Opens the shard and checks its length, its tail and its columns against the manifest.
    pub(super) fn open(path: PathBuf, entry: &ShardEntry, access: Access) -> Result<Self> {
        let bytes = FileBytes::open(&path, access)?;
        Self::check(path, bytes, entry)
    }

    /// Opens a shard to which bytes may have been appended.
    pub(super) fn open_longer(path: PathBuf, entry: &ShardEntry, access: Access) -> Result<Self> {
        let bytes = FileBytes::open(&path, access)?.first(entry.entry.bytes as usize);
        Self::check(path, bytes, entry)
    }

    fn check(path: PathBuf, bytes: FileBytes, entry: &ShardEntry) -> Result<Self> {
        let damaged = |reason: String| CacheError::damaged(&path, None, reason);
        if bytes.len() as u64 != entry.entry.bytes {
            return Err(damaged(format!("{} bytes, expected {}", bytes.len(), entry.entry.bytes)));
        }
        let tail_offset = (entry.tail_offset as usize).min(bytes.len());
        let tail = xxh3::hash(&bytes.get(tail_offset..bytes.len()).at("read", &path)?);
        if format!("{tail:016x}") != entry.tail_xxh3 {
            return Err(damaged(format!("footer checksum {tail:016x}, expected {}", entry.tail_xxh3)));
        }
        let file = ParquetFile::open(path, bytes, &SHARD)?;
        if file.num_rows() as u64 != entry.samples {
            let reason = format!("{} rows, expected {}", file.num_rows(), entry.samples);
            return Err(CacheError::damaged(&file.path, None, reason));
        }
        Ok(Self { file })
    }

    /// A file that no manifest vouches for.
    pub(super) fn of(file: ParquetFile) -> Self {
        Self { file }
    }

    /// Rows in all.
    pub(super) fn num_rows(&self) -> usize {
        self.file.num_rows()
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// The bytes of the shard.
    pub(super) fn bytes(&self) -> &FileBytes {
        self.file.bytes()
    }

    /// Where its pages end.
    pub(super) fn tail_offset(&self) -> usize {
        let groups = 0..self.file.groups().count();
        let columns = groups.flat_map(|group| (0..SHARD.num_columns()).map(move |leaf| (group, leaf)));
        let pages = columns.filter_map(|(group, leaf)| self.file.pages(group, leaf).last());
        let ends = pages.map(|page| page.offset as usize + page.compressed_page_size as usize);
        ends.max().unwrap_or(MAGIC.len())
    }

    /// How many rows each row group has.
    pub(super) fn group_lens(&self) -> impl Iterator<Item = usize> + '_ {
        self.file.groups().map(|rows| rows.len())
    }

    /// The index entries of all rows, in order.
    pub(super) fn index(&self) -> Result<Vec<IndexEntry>> {
        let mut entries = Vec::with_capacity(self.file.num_rows());
        for (group, rows) in self.file.groups().enumerate() {
            match self.packed_entries(group, &rows)? {
                Some(found) => entries.extend(found),
                None => entries.extend(self.entries(group, &rows, 0..rows.len())?),
            }
        }
        Ok(entries)
    }

    /// The index of the first row group in both ways: as it is packed, if it is, and through the `parquet` crate.
    pub(super) fn index_both_ways(&self) -> (Option<Vec<IndexEntry>>, Result<Vec<IndexEntry>>) {
        let rows = self.file.groups().next().unwrap_or(0..0);
        let packed = self.packed_entries(0, &rows).ok().flatten();
        (packed, self.entries(0, &rows, 0..rows.len()))
    }

    /// [`Shard::index`], and the shard without what only the index is made from.
    pub(super) fn into_indexed(self) -> Result<(Self, Vec<IndexEntry>)> {
        let entries = self.index()?;
        Ok((Self { file: self.file.without_pages_of(FEATURES) }, entries))
    }

    /// The index entries of a row group, which holds the shard's rows `of`, if its index columns are packed as we write them.
    fn packed_entries(&self, group: usize, of: &Range<usize>) -> Result<Option<Vec<IndexEntry>>> {
        let pages = self.file.pages(group, FEATURES);
        let is_packed = (KEY..SAMPLE_XXH3).all(|leaf| self.file.is_uncompressed(group, leaf));
        if pages.len() != of.len() || !is_packed {
            return Ok(None);
        }
        let empty = |(at, page): (usize, &PageLocation)| IndexEntry {
            key: SampleKey::from_bytes([0; 16]),
            row: (of.start + at) as u32,
            page_offset: page.offset as u64,
            page_bytes: page.compressed_page_size as u32,
            num_tokens: 0,
            num_positions: 0,
            features_xxh3: 0,
        };
        let mut entries: Vec<IndexEntry> = pages.iter().enumerate().map(empty).collect();
        for leaf in KEY..SAMPLE_XXH3 {
            let mut rest = entries.as_mut_slice();
            let Some(bodies) = self.file.bodies(group, leaf)? else { return Ok(None) };
            for (encoding, rows, body) in bodies {
                let Some((some, after)) = rest.split_at_mut_checked(rows) else { return Ok(None) };
                if fill(some, leaf, encoding, &body).is_none() {
                    return Ok(None);
                }
                rest = after;
            }
            if !rest.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(entries))
    }

    /// The index entries of the rows whose index columns are sound.
    pub(super) fn sound_index(&self) -> Vec<IndexEntry> {
        let mut entries = Vec::new();
        for (group, rows) in self.file.groups().enumerate() {
            let one = |row: usize| self.entries(group, &rows, row..row + 1).ok();
            match self.entries(group, &rows, 0..rows.len()) {
                Ok(found) => entries.extend(found),
                Err(_) => entries.extend((0..rows.len()).filter_map(one).flatten()),
            }
        }
        entries
    }

    /// The index entries of some rows of a row group, which holds the shard's rows `of`.
    fn entries(&self, group: usize, of: &Range<usize>, rows: Range<usize>) -> Result<Vec<IndexEntry>> {
        let damaged = |row, reason: String| CacheError::damaged(self.path(), row, reason);
        let pages = self.file.pages(group, FEATURES);
        if pages.len() != of.len() {
            return Err(damaged(None, format!("row group {group} has not one feature page per row")));
        }
        let table = self.file.read(group, KEY..SAMPLE_XXH3, rows.clone())?;
        let entry = |(at, cells): (usize, Vec<Cell>)| {
            let (page, row) = (&pages[at], of.start + at);
            let place = (row as u32, page.offset as u64, page.compressed_page_size as u32);
            index_entry(cells, place).map_err(|reason| damaged(Some(row as u64), reason))
        };
        rows.zip(table).map(entry).collect()
    }

    /// The cells of one row in the given columns.
    pub(super) fn cells(&self, row: usize, leaves: Range<usize>) -> Result<Vec<Cell>> {
        let group = self.file.group_of(row);
        let start = self.file.groups().nth(group).map_or(0, |rows| rows.start);
        let mut table = self.file.read(group, leaves, row - start..row - start + 1)?;
        Ok(table.pop().unwrap_or_default())
    }
}

/// Sets one field of some rows from the body of the page that holds them.
fn fill(rows: &mut [IndexEntry], leaf: usize, encoding: u32, body: &[u8]) -> Option<()> {
    let count = rows.len();
    match (leaf - KEY, encoding) {
        (0, DELTA_LENGTH_BYTE_ARRAY) => {
            let keys = delta_texts::<KEY_DIGITS>(body, count)?;
            let set = |(row, text): (&mut IndexEntry, &[u8; KEY_DIGITS])| {
                row.key = std::str::from_utf8(text).ok()?.parse().ok()?;
                Some(())
            };
            rows.iter_mut().zip(keys).try_for_each(set)
        }
        (field @ (1 | 2), DELTA_BINARY_PACKED) => {
            let (counts, []) = delta_integers(body, count)? else { return None };
            rows.iter_mut().zip(counts).try_for_each(|(row, value)| {
                let place = if field == 1 { &mut row.num_tokens } else { &mut row.num_positions };
                *place = u32::try_from(value).ok()?;
                Some(())
            })
        }
        (3, PLAIN) => {
            let longs = plain_longs(body, count)?;
            rows.iter_mut().zip(longs).for_each(|(row, &long)| row.features_xxh3 = u64::from_le_bytes(long));
            Some(())
        }
        _ => None,
    }
}

fn index_entry(
    cells: Vec<Cell>,
    (row, page_offset, page_bytes): (u32, u64, u32),
) -> std::result::Result<IndexEntry, String> {
    let mut take = Take(cells.into_iter());
    let key = take.parsed()?;
    let (num_tokens, num_positions, features_xxh3) = (take.count()?, take.count()?, take.big()?);
    Ok(IndexEntry { key, row, page_offset, page_bytes, num_tokens, num_positions, features_xxh3 })
}
