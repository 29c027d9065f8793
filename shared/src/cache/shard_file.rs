//! A shard's file as it is written: feature pages as they are made, then what the `parquet` crate says of them.
//!
//! ```text
//! PAR1 | row group: feature pages | small columns | row group ... | page indexes | footer | PAR1
//! ```
//! The crate's own writer takes the columns of a row group in their order, so that the features, which are the last of them and
//! nearly all, would have to wait for the small ones until the row group is full. Where a column lies is for the footer to say.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, OffsetIndexBuilder, ParquetMetaDataBuilder, ParquetMetaDataWriter,
    RowGroupMetaData,
};
use parquet::file::page_index::offset_index::{OffsetIndexMetaData, PageLocation};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::TrackedWrite;

use super::error::{CacheError, IoContext, Result};
use super::schema::SHARD;
use super::table::EncodedColumn;
use super::xxh3::Xxh3;
use crate::ids::Digest;

/// The first and the last bytes of a Parquet file.
pub(super) const MAGIC: &[u8] = b"PAR1";
/// Bytes that are hashed and written at a time where they come in less.
const WRITTEN_AT_ONCE: usize = 256 << 10;

/// A Parquet file with the columns of a shard, under construction.
pub(super) struct ShardFile {
    out: TrackedWrite<Shared>,
    sink: Shared,
    groups: Vec<RowGroupMetaData>,
    indexes: Vec<Vec<OffsetIndexMetaData>>,
}

/// A column chunk that lies in the file: what the footer says of it, and where its pages are.
pub(super) type WrittenColumn = (ColumnChunkMetaData, OffsetIndexMetaData);

/// What is known of a file once it is complete.
pub(super) struct FileSummary {
    pub(super) bytes: u64,
    pub(super) digest: Digest,
    /// Where page indexes and footer begin, and their XXH3-64.
    pub(super) tail_offset: u64,
    pub(super) tail_xxh3: u64,
}

impl ShardFile {
    /// Starts a file.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let sink = Shared(Arc::new(Mutex::new(HashingFile::create(path)?)));
        let mut out = TrackedWrite::new(sink.clone());
        out.write_all(MAGIC)?;
        Ok(Self { out, sink, groups: Vec::new(), indexes: Vec::new() })
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> usize {
        self.out.bytes_written()
    }

    /// Appends some bytes of the open row group.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Ends a row group: its small columns, and its features, which lie in the file from `start` on.
    pub(super) fn end_group(
        &mut self,
        (start, rows): (usize, usize),
        small: Vec<EncodedColumn>,
        features: WrittenColumn,
    ) -> ParquetResult<()> {
        let (mut columns, mut indexes) = (Vec::new(), Vec::new());
        for (bytes, close) in small {
            let offset = self.out.bytes_written() as i64;
            self.out.write_all(&bytes)?;
            let place = offset + close.metadata.data_page_offset();
            columns.push(close.metadata.into_builder().set_data_page_offset(place).build()?);
            let pages = close.offset_index.map(|index| moved(index.page_locations(), offset, rows));
            indexes.push(pages.unwrap_or_else(|| OffsetIndexBuilder::new().build()));
        }
        columns.push(features.0);
        indexes.push(features.1);
        let group = RowGroupMetaData::builder(SHARD.clone())
            .set_num_rows(rows as i64)
            .set_total_byte_size(columns.iter().map(ColumnChunkMetaData::uncompressed_size).sum())
            .set_column_metadata(columns)
            .set_ordinal(self.groups.len() as i16)
            .set_file_offset(start as i64)
            .build()?;
        self.groups.push(group);
        self.indexes.push(indexes);
        Ok(())
    }

    /// Writes page indexes and footer, and syncs the file, which lies at `path`.
    pub(super) fn finish(&mut self, path: &Path, properties: &WriterProperties) -> Result<FileSummary> {
        self.out.flush().at("write", path)?;
        let tail_offset = self.out.bytes_written() as u64;
        self.sink.lock().tail = Some(Xxh3::new());
        let rows = self.groups.iter().map(RowGroupMetaData::num_rows).sum();
        let (version, by) = (properties.writer_version().as_num(), properties.created_by().to_owned());
        let metadata = ParquetMetaDataBuilder::new(FileMetaData::new(
            version,
            rows,
            Some(by),
            None,
            SHARD.clone(),
            None,
        ))
        .set_row_groups(std::mem::take(&mut self.groups))
        .set_offset_index(Some(std::mem::take(&mut self.indexes)))
        .build();
        // The crate counts offsets by what went through.
        let out = std::mem::replace(&mut self.out, TrackedWrite::new(self.sink.clone()));
        ParquetMetaDataWriter::new_with_tracked(out, &metadata)
            .finish()
            .map_err(|error| CacheError::writing(path, error))?;
        let mut sink = self.sink.lock();
        sink.write_waiting().at("write", path)?;
        sink.file.sync_all().at("sync", path)?;
        let tail_xxh3 = sink.tail.take().map_or(0, |tail| tail.digest());
        let digest = Digest::from_bytes(sink.hasher.finalize().into());
        Ok(FileSummary { bytes: sink.bytes, digest, tail_offset, tail_xxh3 })
    }
}

/// The pages of a column chunk of `rows` rows that begins at `offset`.
fn moved(pages: &[PageLocation], offset: i64, rows: usize) -> OffsetIndexMetaData {
    let mut index = OffsetIndexBuilder::new();
    let ends = pages.iter().skip(1).map(|page| page.first_row_index).chain([rows as i64]);
    for (page, end) in pages.iter().zip(ends) {
        index.append_row_count(end - page.first_row_index);
        index.append_offset_and_size(page.offset + offset, page.compressed_page_size);
    }
    index.build()
}

/// The file, for the crate that writes the footer and for us, who ask what became of it.
#[derive(Clone)]
struct Shared(Arc<Mutex<HashingFile>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashingFile> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().write_waiting()
    }
}

/// A file that knows the digest of what went into it.
struct HashingFile {
    file: File,
    waiting: Vec<u8>,
    bytes: u64,
    hasher: blake3::Hasher,
    tail: Option<Xxh3>,
}

impl HashingFile {
    fn create(path: &Path) -> io::Result<Self> {
        let (file, waiting) = (File::create(path)?, Vec::with_capacity(WRITTEN_AT_ONCE));
        Ok(Self { file, waiting, bytes: 0, hasher: blake3::Hasher::new(), tail: None })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let is_large = bytes.len() >= WRITTEN_AT_ONCE / 2;
        if is_large || self.waiting.len() + bytes.len() > WRITTEN_AT_ONCE {
            self.write_waiting()?;
        }
        match is_large {
            true => self.write(bytes)?,
            false => self.waiting.extend_from_slice(bytes),
        }
        if let Some(tail) = &mut self.tail {
            tail.update(bytes);
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn write_waiting(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.write(&waiting)?;
        self.waiting = waiting;
        self.waiting.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }
}
