//! One shard under construction: row groups of small columns and hand-made feature pages.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder};
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::writer::SerializedFileWriter;

use super::buffers::Buffers;
use super::codec::Codec;
use super::error::{CacheError, IoContext, Result};
use super::feature_page::{self, Page};
use super::lossy::{HeadMatrix, LossyError};
use super::manifest::{FileEntry, ShardEntry};
use super::sample::{FeatureBlock, Row};
use super::schema::{Cell, FEATURES, NUM_CELLS, SHARD, row_to_cells};
use super::table::{TableBuffer, properties};
use super::xxh3::{self, Xxh3};
use crate::ids::{Digest, SampleKey};

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
    file: SerializedFileWriter<HashingFile>,
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
        let sink = HashingFile::create(&path).at("create", &path)?;
        let file = SerializedFileWriter::new(sink, SHARD.root_schema_ptr(), properties.clone())
            .map_err(|error| CacheError::writing(&path, error))?;
        let group = RowGroupBuffer::new(&properties, codec);
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

    /// Bytes that are not on the disk yet: the pages of the open row group, and what waits to be written.
    pub(super) fn pending_bytes(&self) -> usize {
        self.group.bytes + self.file.inner().waiting.len()
    }

    /// Bytes so far, the open row group included.
    pub(super) fn bytes(&self) -> usize {
        self.file.bytes_written() + self.group.bytes
    }

    /// Appends a row; closes the row group when it is full.
    pub(super) fn push(&mut self, row: EncodedRow) -> Result<()> {
        self.keys.insert(row.key);
        self.tokens += row.tokens;
        self.feature_rows += row.positions;
        self.error.add(&row.error);
        self.group.push(row).map_err(|error| CacheError::writing(&self.path, error))?;
        if self.group.bytes >= self.row_group_bytes { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let codec = self.group.codec;
        let mut group = std::mem::replace(&mut self.group, RowGroupBuffer::new(&self.properties, codec));
        if group.rows == 0 {
            return Ok(());
        }
        let write = || -> ParquetResult<()> {
            let mut writer = self.file.next_row_group()?;
            let features = group.features()?;
            for (bytes, close) in group.table.finish()? {
                writer.append_column(&bytes, close)?;
            }
            let pages = Pages(Arc::new(group.pages));
            writer.append_column(&pages, features)?;
            let pages = Arc::into_inner(pages.0).unwrap_or_default();
            pages.into_iter().for_each(|page| self.buffers.give_back(page.buffer));
            writer.close().map(drop)
        };
        write().map_err(|error| CacheError::writing(&self.path, error))
    }

    /// Completes and syncs the file; its entry has no name yet.
    pub(super) fn finish(mut self) -> Result<FinishedShard> {
        self.flush()?;
        self.file.flush().at("write", &self.path)?;
        // What is written from here on, page indexes and footer, is the tail that readers check first.
        let tail_offset = self.file.bytes_written() as u64;
        self.file.inner_mut().tail = Some(Xxh3::new());
        self.file.finish().map_err(|error| CacheError::writing(&self.path, error))?;
        let sink = self.file.inner_mut();
        sink.file.sync_all().at("sync", &self.path)?;
        let digest = Digest::from_bytes(sink.hasher.finalize().into());
        let tail_xxh3 = sink.tail.take().map_or(0, |tail| tail.digest());
        let entry = ShardEntry {
            entry: FileEntry { file: String::new(), bytes: sink.bytes, digest },
            samples: self.keys.len() as u64,
            tokens: self.tokens,
            feature_rows: self.feature_rows,
            tail_offset,
            tail_xxh3: format!("{tail_xxh3:016x}"),
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

/// The open row group: small columns encoded as they come, feature pages one after another.
struct RowGroupBuffer {
    codec: Codec,
    table: TableBuffer,
    pages: Vec<Page>,
    /// Their bytes.
    bytes: usize,
    index: OffsetIndexBuilder,
    rows: usize,
    values: u64,
    uncompressed: usize,
}

impl RowGroupBuffer {
    fn new(properties: &WriterPropertiesPtr, codec: Codec) -> Self {
        Self {
            codec,
            table: TableBuffer::new(&SHARD, properties, NUM_CELLS),
            pages: Vec::new(),
            bytes: 0,
            index: OffsetIndexBuilder::new(),
            rows: 0,
            values: 0,
            uncompressed: 0,
        }
    }

    fn push(&mut self, row: EncodedRow) -> ParquetResult<()> {
        self.table.push(row.cells)?;
        self.index.append_row_count(1);
        let (len, header) = (row.page.bytes().len(), row.page.header);
        self.index.append_offset_and_size(self.bytes as i64, len as i32);
        self.bytes += len;
        self.rows += 1;
        self.values += u64::from(header.num_values);
        self.uncompressed += header.uncompressed_bytes as usize + len - header.compressed_bytes as usize;
        self.pages.push(row.page);
        Ok(())
    }

    /// What the file says of the column of features.
    fn features(&mut self) -> ParquetResult<ColumnCloseResult> {
        let layout = self.codec.coding().layout();
        let metadata = ColumnChunkMetaData::builder(SHARD.column(FEATURES))
            .set_compression(layout.compression())
            .set_encodings(vec![Encoding::RLE, layout.encoding()])
            .set_num_values(self.values as i64)
            .set_total_compressed_size(self.bytes as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_data_page_offset(0)
            .build()?;
        Ok(ColumnCloseResult {
            bytes_written: self.bytes as u64,
            rows_written: self.rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(std::mem::replace(&mut self.index, OffsetIndexBuilder::new()).build()),
        })
    }
}

/// Pages one after another, as the `parquet` crate reads what it splices into a file: from the first to the last.
struct Pages(Arc<Vec<Page>>);

struct PagesReader {
    pages: Arc<Vec<Page>>,
    /// The page, and the place in it.
    at: (usize, usize),
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.0.iter().map(|page| page.bytes().len() as u64).sum()
    }
}

impl ChunkReader for Pages {
    type T = PagesReader;

    fn get_read(&self, start: u64) -> ParquetResult<PagesReader> {
        match start {
            0 => Ok(PagesReader { pages: Arc::clone(&self.0), at: (0, 0) }),
            _ => Err(ParquetError::General("pages are read from the first on".into())),
        }
    }

    fn get_bytes(&self, _start: u64, _length: usize) -> ParquetResult<Bytes> {
        Err(ParquetError::General("pages are read one after another".into()))
    }
}

impl Read for PagesReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(page) = self.pages.get(self.at.0) {
            let rest = &page.bytes()[self.at.1..];
            let len = rest.len().min(out.len());
            if len > 0 || out.is_empty() {
                out[..len].copy_from_slice(&rest[..len]);
                self.at.1 += len;
                return Ok(len);
            }
            self.at = (self.at.0 + 1, 0);
        }
        Ok(0)
    }
}

/// Bytes that are hashed and written at a time: the crate hands on 8 KiB each, which the hash takes a half longer over.
const WRITTEN_AT_ONCE: usize = 1 << 20;

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

    fn write_waiting(&mut self) -> io::Result<()> {
        self.hasher.update(&self.waiting);
        self.file.write_all(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.waiting.len() + bytes.len() > WRITTEN_AT_ONCE {
            self.write_waiting()?;
        }
        self.waiting.extend_from_slice(bytes);
        if let Some(tail) = &mut self.tail {
            tail.update(bytes);
        }
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_waiting()?;
        self.file.flush()
    }
}
