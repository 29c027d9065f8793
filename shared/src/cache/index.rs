//! A shard opened for reading: its map, its Parquet metadata and its part of the index.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{ReaderProperties, ReaderPropertiesPtr};
use parquet::file::serialized_reader::SerializedRowGroupReader;
use xxhash_rust::xxh3::xxh3_64;

use super::error::{CacheError, IoContext, Result};
use super::manifest::ShardEntry;
use super::schema::{Cell, FEATURES, KEY, SAMPLE_XXH3, SHARD, Take};
use super::table::read_cells;
use crate::ids::SampleKey;

/// What is held in memory of each sample: 56 bytes, and 4 for finding it by key.
#[derive(Clone, Copy, Debug)]
pub(super) struct IndexEntry {
    pub(super) key: SampleKey,
    /// The shard's number and the row in it.
    pub(super) shard: u32,
    pub(super) row: u32,
    /// Where the feature page begins in the shard, and its length with the header.
    pub(super) page_offset: u64,
    pub(super) page_bytes: u32,
    pub(super) num_tokens: u32,
    pub(super) num_positions: u32,
    pub(super) features_xxh3: u64,
}

/// One mapped shard.
pub(super) struct Shard {
    pub(super) path: PathBuf,
    bytes: Bytes,
    metadata: ParquetMetaData,
    properties: ReaderPropertiesPtr,
    /// The first row of each row group, and the number of rows at the end.
    starts: Vec<usize>,
}

impl Shard {
    /// Maps the shard and checks its length, its tail and its schema against the manifest.
    pub(super) fn open(path: PathBuf, entry: &ShardEntry) -> Result<Self> {
        let damaged = |reason: String| CacheError::damaged(&path, None, reason);
        let map = map_file(&path)?;
        if map.len() as u64 != entry.entry.bytes {
            return Err(damaged(format!("{} bytes, expected {}", map.len(), entry.entry.bytes)));
        }
        let bytes = Bytes::from_owner(map);
        let tail = bytes.get(entry.tail_offset as usize..).map(xxh3_64).unwrap_or(0);
        if format!("{tail:016x}") != entry.tail_xxh3 {
            return Err(damaged(format!("footer checksum {tail:016x}, expected {}", entry.tail_xxh3)));
        }
        let metadata = ParquetMetaDataReader::new()
            .with_column_index_policy(PageIndexPolicy::Skip)
            .with_offset_index_policy(PageIndexPolicy::Required)
            .parse_and_finish(&bytes)
            .map_err(|error| damaged(error.to_string()))?;
        if metadata.file_metadata().schema_descr().root_schema() != SHARD.root_schema() {
            return Err(damaged("its columns are not those of the format".into()));
        }
        let mut starts = vec![0];
        for group in metadata.row_groups() {
            starts.push(starts[starts.len() - 1] + group.num_rows() as usize);
        }
        if starts[starts.len() - 1] as u64 != entry.samples {
            return Err(damaged(format!("{} rows, expected {}", starts[starts.len() - 1], entry.samples)));
        }
        let properties = Arc::new(ReaderProperties::builder().build());
        Ok(Self { path, bytes, metadata, properties, starts })
    }

    /// The bytes of the shard.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The index entries of all rows, in order; they say that they are of shard number `shard`.
    pub(super) fn index(&self, shard: usize) -> Result<Vec<IndexEntry>> {
        let mut entries = Vec::with_capacity(self.starts[self.starts.len() - 1]);
        for group in 0..self.metadata.num_row_groups() {
            entries.extend(self.entries(group, 0..self.starts[group + 1] - self.starts[group], shard)?);
        }
        Ok(entries)
    }

    /// The index entries of the rows whose index columns are sound, of shard number 0.
    pub(super) fn sound_index(&self) -> Vec<IndexEntry> {
        let mut entries = Vec::new();
        for group in 0..self.metadata.num_row_groups() {
            let rows = self.starts[group + 1] - self.starts[group];
            match self.entries(group, 0..rows, 0) {
                Ok(found) => entries.extend(found),
                Err(_) => entries.extend((0..rows).filter_map(|row| self.entries(group, row..row + 1, 0).ok()).flatten()),
            }
        }
        entries
    }

    /// The index entries of some rows of a row group.
    fn entries(&self, group: usize, rows: Range<usize>, shard: usize) -> Result<Vec<IndexEntry>> {
        let damaged = |row, reason: String| CacheError::damaged(&self.path, row, reason);
        let table = self.in_group(group, |reader| read_cells(reader, KEY..SAMPLE_XXH3, rows.clone()))?;
        let num_rows = self.starts[group + 1] - self.starts[group];
        let pages = self.metadata.offset_index().map(|index| index[group][FEATURES].page_locations());
        let pages = pages
            .filter(|pages| pages.len() == num_rows)
            .ok_or_else(|| damaged(None, format!("row group {group} has not one feature page per row")))?;
        let first = self.starts[group];
        let entry = |(row, cells): (usize, Vec<Cell>)| {
            let (page, row) = (&pages[row], first + row);
            let place = (shard as u32, row as u32, page.offset as u64, page.compressed_page_size as u32);
            index_entry(cells, place).map_err(|reason| damaged(Some(row as u64), reason))
        };
        rows.clone().zip(table).map(entry).collect()
    }

    /// The cells of one row in the given columns.
    pub(super) fn cells(&self, row: usize, leaves: Range<usize>) -> Result<Vec<Cell>> {
        let group = self.starts.partition_point(|&start| start <= row) - 1;
        let at = row - self.starts[group];
        let mut table = self.in_group(group, |reader| read_cells(reader, leaves, at..at + 1))?;
        Ok(table.pop().unwrap_or_default())
    }

    fn in_group<T>(
        &self,
        group: usize,
        read: impl FnOnce(&SerializedRowGroupReader<'_, Bytes>) -> ParquetResult<T>,
    ) -> Result<T> {
        let index = self.metadata.offset_index().map(|index| index[group].as_slice());
        let chunk = Arc::new(self.bytes.clone());
        SerializedRowGroupReader::new(chunk, self.metadata.row_group(group), index, self.properties.clone())
            .and_then(|reader| read(&reader))
            .map_err(|error: ParquetError| CacheError::damaged(&self.path, None, error))
    }
}

fn index_entry(
    cells: Vec<Cell>,
    (shard, row, page_offset, page_bytes): (u32, u32, u64, u32),
) -> std::result::Result<IndexEntry, String> {
    let mut take = Take(cells.into_iter());
    let key = take.parsed()?;
    let (num_tokens, num_positions, features_xxh3) = (take.count()?, take.count()?, take.big()?);
    Ok(IndexEntry { key, shard, row, page_offset, page_bytes, num_tokens, num_positions, features_xxh3 })
}

/// Maps a file for reading.
pub(super) fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).at("open", path)?;
    // SAFETY: a cache's files are never changed in place, only replaced by rename, so the map stays
    // what it was; a file truncated from outside ends the process, which the format document states.
    unsafe { Mmap::map(&file) }.at("map", path)
}
