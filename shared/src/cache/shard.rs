//! One shard under construction: row groups of small columns and hand-made feature pages.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use parquet::basic::Encoding;
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder};
use parquet::file::properties::WriterPropertiesPtr;

use super::buffers::Buffers;
use super::codec::Codec;
use super::error::{CacheError, IoContext, Result};
use super::feature_page::{self, Page};
use super::lossy::{HeadMatrix, LossyError};
use super::manifest::{FileEntry, ShardEntry};
use super::sample::{FeatureBlock, Row};
use super::schema::{Cell, FEATURES, NUM_CELLS, SHARD, row_to_cells};
use super::shard_file::{ShardFile, WrittenColumn};
use super::table::{EncodedColumn, TableBuffer, properties};
use super::xxh3;
use crate::ids::SampleKey;

/// A row whose features have become a page; made by many threads, pushed by one.
pub(super) struct EncodedRow {
    pub(super) key: SampleKey,
    tokens: u64,
    positions: u64,
    cells: Vec<Cell>,
    page: Page,
    error: LossyError,
}

impl EncodedRow {
    /// Encodes one row, which has passed [`Row::check`]; measures through `head` what a lossy codec changes.
    pub(super) fn new(row: &Row, codec: Codec, head: Option<&HeadMatrix>, buffers: &Buffers) -> Result<Self> {
        let FeatureBlock { dtype, width, .. } = row.features;
        let rounded = codec.coding().round(&row.features);
        let bytes = rounded.as_ref().unwrap_or(&row.features.bytes);
        let page = feature_page::make(codec.coding(), dtype, width, bytes, buffers)
            .map_err(|reason| row.meta.invariant(reason))?;
        let error = match (head, &rounded) {
            (Some(head), Some(rounded)) => head.measure(&row.features, rounded),
            _ => LossyError::default(),
        };
        let cells = row_to_cells(row, xxh3::hash(bytes));
        let (key, tokens) = (row.meta.key, row.meta.input_ids.len() as u64);
        let positions = row.features.num_positions() as u64;
        Ok(Self { key, tokens, positions, cells, page, error })
    }
}

/// A shard being written aside; dropped unfinished, it removes its file.
pub(super) struct ShardWriter {
    path: PathBuf,
    properties: WriterPropertiesPtr,
    file: ShardFile,
    group: RowGroupBuffer,
    row_group_bytes: usize,
    /// Where the buffers of pages come from, and go to once they are written.
    buffers: Arc<Buffers>,
    pub(super) keys: HashSet<SampleKey>,
    tokens: u64,
    feature_rows: u64,
    /// What the codec changed in the rows so far.
    pub(super) error: LossyError,
}

impl ShardWriter {
    /// Starts a shard at `path`.
    pub(super) fn create(
        path: PathBuf,
        codec: Codec,
        row_group_bytes: usize,
        buffers: Arc<Buffers>,
    ) -> Result<Self> {
        let properties = properties(&SHARD);
        let file = ShardFile::create(&path).at("create", &path)?;
        let group = RowGroupBuffer::new(&properties, codec, file.bytes());
        let (keys, error) = (HashSet::new(), LossyError::default());
        Ok(Self {
            path,
            properties,
            file,
            group,
            row_group_bytes,
            buffers,
            keys,
            tokens: 0,
            feature_rows: 0,
            error,
        })
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> usize {
        self.file.bytes()
    }

    /// Appends a row; closes the row group when it is full.
    pub(super) fn push(&mut self, row: EncodedRow) -> Result<()> {
        self.keys.insert(row.key);
        self.tokens += row.tokens;
        self.feature_rows += row.positions;
        self.error.add(&row.error);
        self.file.append(row.page.bytes()).at("write", &self.path)?;
        let page = self.group.push(row).map_err(|error| CacheError::writing(&self.path, error))?;
        self.buffers.give_back(page.buffer);
        if self.group.bytes >= self.row_group_bytes { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.group.rows == 0 {
            return Ok(());
        }
        let next = RowGroupBuffer::new(&self.properties, self.group.codec, 0);
        let group = std::mem::replace(&mut self.group, next);
        let write = || {
            let place = (group.start, group.rows);
            let (small, features) = group.finish()?;
            self.file.end_group(place, small, features)
        };
        write().map_err(|error| CacheError::writing(&self.path, error))?;
        self.group.start = self.file.bytes();
        Ok(())
    }

    /// Completes and syncs the file; its entry has no name yet.
    pub(super) fn finish(mut self) -> Result<FinishedShard> {
        self.flush()?;
        let file = self.file.finish(&self.path, &self.properties)?;
        let entry = ShardEntry {
            entry: FileEntry { file: String::new(), bytes: file.bytes, digest: file.digest },
            samples: self.keys.len() as u64,
            tokens: self.tokens,
            feature_rows: self.feature_rows,
            tail_offset: file.tail_offset,
            tail_xxh3: format!("{:016x}", file.tail_xxh3),
        };
        Ok(FinishedShard {
            path: std::mem::take(&mut self.path),
            entry,
            keys: std::mem::take(&mut self.keys),
            error: self.error,
        })
    }
}

/// A shard on disk that is not committed yet.
pub(super) struct FinishedShard {
    pub(super) path: PathBuf,
    pub(super) entry: ShardEntry,
    pub(super) keys: HashSet<SampleKey>,
    pub(super) error: LossyError,
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Nothing to report to: what remains is removed by the next writer.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The open row group: small columns encoded as they come, and where the feature pages are in the file.
struct RowGroupBuffer {
    codec: Codec,
    table: TableBuffer,
    /// Where the row group begins in the file.
    start: usize,
    /// Bytes of the feature pages.
    bytes: usize,
    index: OffsetIndexBuilder,
    rows: usize,
    values: u64,
    uncompressed: usize,
}

impl RowGroupBuffer {
    fn new(properties: &WriterPropertiesPtr, codec: Codec, start: usize) -> Self {
        Self {
            codec,
            table: TableBuffer::new(&SHARD, properties, NUM_CELLS),
            start,
            bytes: 0,
            index: OffsetIndexBuilder::new(),
            rows: 0,
            values: 0,
            uncompressed: 0,
        }
    }

    /// Notes a row whose page has been written, which is given back.
    fn push(&mut self, row: EncodedRow) -> ParquetResult<Page> {
        self.table.push(row.cells)?;
        self.index.append_row_count(1);
        let (len, header) = (row.page.bytes().len(), row.page.header);
        self.index.append_offset_and_size((self.start + self.bytes) as i64, len as i32);
        self.bytes += len;
        self.rows += 1;
        self.values += u64::from(header.num_values);
        self.uncompressed += header.uncompressed_bytes as usize + len - header.compressed_bytes as usize;
        Ok(row.page)
    }

    /// The small columns, and what the file says of the features.
    fn finish(self) -> ParquetResult<(Vec<EncodedColumn>, WrittenColumn)> {
        let layout = self.codec.coding().layout();
        let metadata = ColumnChunkMetaData::builder(SHARD.column(FEATURES))
            .set_compression(layout.compression())
            .set_encodings(vec![Encoding::RLE, layout.encoding()])
            .set_num_values(self.values as i64)
            .set_total_compressed_size(self.bytes as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_data_page_offset(self.start as i64)
            .build()?;
        Ok((self.table.finish()?, (metadata, self.index.build())))
    }
}
