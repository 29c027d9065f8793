//! A Parquet file of ours, opened so that nothing it claims is believed before its bytes bear it out.
//!
//! Footer, page index and page headers are checked against the bytes that there are before the `parquet` crate reads by them:
//! it allocates and slices by numbers in the file. A panic of the crate on what is left (values that do not decode) becomes an
//! error like any other.

use std::io::Read;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, OffsetIndexBuilder, PageIndexPolicy, ParquetMetaData,
    ParquetMetaDataBuilder, ParquetMetaDataReader, RowGroupMetaData,
};
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::properties::{ReaderProperties, ReaderPropertiesPtr};
use parquet::file::serialized_reader::SerializedRowGroupReader;
use parquet::schema::types::{ColumnDescPtr, SchemaDescPtr};

use super::error::{CacheError, Result};
use super::packed::announces_at_most;
use super::page::{DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, PLAIN, PageHeader};
use super::schema::Cell;
use super::source::{Access, FileBytes};
use super::table::read_cells;
use super::thrift::holds_struct;

/// A page may unpack to this much, or to this many times its bytes: more than text and spans ever do.
const UNPACKED_BYTES: usize = 16 << 20;
const UNPACKED_RATIO: usize = 4096;
/// Values that a byte of a page may stand for: a block of 128 differences that are all the same takes five.
const VALUES_PER_BYTE: usize = 32;
/// The header of a delta encoding is three numbers of ten bytes at the most.
const FRONT: usize = 30;

/// Why a file is not one of ours.
type Checked<T> = std::result::Result<T, String>;

/// An opened file and its metadata.
pub(super) struct ParquetFile {
    pub(super) path: PathBuf,
    bytes: Arc<FileBytes>,
    metadata: ParquetMetaData,
    properties: ReaderPropertiesPtr,
    /// The first row of each row group, and the number of rows at the end.
    starts: Vec<usize>,
}

impl ParquetFile {
    /// Opens a file that must have these columns.
    pub(super) fn open(path: PathBuf, bytes: FileBytes, schema: &SchemaDescPtr) -> Result<Self> {
        let damaged = |reason: String| CacheError::damaged(&path, None, reason);
        let metadata = read_metadata(&bytes).map_err(damaged)?;
        if metadata.file_metadata().schema_descr().root_schema() != schema.root_schema() {
            return Err(damaged("its columns are not those of the format".into()));
        }
        let metadata = with_schema(metadata, schema).map_err(|error| damaged(error.to_string()))?;
        let mut starts = vec![0usize];
        for group in 0..metadata.num_row_groups() {
            let rows = check_group(&metadata, group, bytes.len()).map_err(damaged)?;
            starts.push(starts[group].saturating_add(rows));
        }
        // No page holds more rows than it has bytes, so neither does a file.
        if starts[starts.len() - 1] > bytes.len() {
            return Err(damaged("it has more rows than bytes".into()));
        }
        let properties = Arc::new(ReaderProperties::builder().build());
        Ok(Self { path, bytes: Arc::new(bytes), metadata, properties, starts })
    }

    /// All bytes.
    pub(super) fn bytes(&self) -> &FileBytes {
        &self.bytes
    }

    /// Rows in all.
    pub(super) fn num_rows(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// The rows of each row group.
    pub(super) fn groups(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.starts.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// The row group of a row.
    pub(super) fn group_of(&self, row: usize) -> usize {
        self.starts.partition_point(|&start| start <= row) - 1
    }

    /// Where the pages of a column lie.
    pub(super) fn pages(&self, group: usize, leaf: usize) -> &[PageLocation] {
        self.metadata.offset_index().map_or(&[], |index| index[group][leaf].page_locations())
    }

    /// The cells of some rows of a row group, counted from its first, in the columns `leaves`.
    pub(super) fn read(
        &self,
        group: usize,
        leaves: Range<usize>,
        rows: Range<usize>,
    ) -> Result<Vec<Vec<Cell>>> {
        let damaged = |reason: String| CacheError::damaged(&self.path, None, reason);
        let start = |leaf| Ok((leaf, self.check_pages(group, leaf, &rows)?));
        let leaves = leaves.map(start).collect::<Checked<Vec<_>>>().map_err(damaged)?;
        let read = || -> ParquetResult<Vec<Vec<Cell>>> {
            let index = self.metadata.offset_index().map(|index| index[group].as_slice());
            let chunk = Arc::clone(&self.bytes);
            let group = self.metadata.row_group(group);
            let reader = SerializedRowGroupReader::new(chunk, group, index, self.properties.clone())?;
            read_cells(&reader, &leaves, rows)
        };
        contained(read).map_err(damaged)
    }

    /// The headers of the pages that hold `rows`; returns the first row of the first of them.
    fn check_pages(&self, group: usize, leaf: usize, rows: &Range<usize>) -> Checked<usize> {
        let (first, those) = self.pages_of(group, leaf, rows);
        those.iter().try_for_each(|place| {
            let (bytes, header, start) = self.page(leaf, place)?;
            match self.announces_what_fits(group, leaf, &bytes[start..], &header) {
                true => Ok(()),
                false => Err(format!("a page of column {leaf} announces more values than it holds")),
            }
        })?;
        Ok(first)
    }

    /// Whether the values of a page are encoded as we encode small columns, and are not more than its header and its bytes allow.
    fn announces_what_fits(&self, group: usize, leaf: usize, body: &[u8], header: &PageHeader) -> bool {
        let levels = header.repetition_bytes as usize + header.definition_bytes as usize;
        let count = header.num_values as usize;
        if count / VALUES_PER_BYTE > header.uncompressed_bytes as usize {
            return false;
        }
        let Some(values) = body.get(levels..) else { return false };
        match header.encoding {
            PLAIN => true,
            // Nothing but absent values.
            DELTA_BINARY_PACKED | DELTA_LENGTH_BYTE_ARRAY if values.is_empty() => true,
            DELTA_BINARY_PACKED | DELTA_LENGTH_BYTE_ARRAY if self.is_uncompressed(group, leaf) => {
                announces_at_most(values, count)
            }
            DELTA_BINARY_PACKED | DELTA_LENGTH_BYTE_ARRAY => first_bytes(values, header.is_compressed)
                .is_some_and(|front| announces_at_most(&front, count)),
            _ => false,
        }
    }

    /// The pages that hold `rows`, and the first row of the first of them.
    fn pages_of(&self, group: usize, leaf: usize, rows: &Range<usize>) -> (usize, &[PageLocation]) {
        let pages = self.pages(group, leaf);
        let first =
            pages.partition_point(|page| page.first_row_index as usize <= rows.start).saturating_sub(1);
        let end = pages.partition_point(|page| (page.first_row_index as usize) < rows.end).max(first);
        (pages.get(first).map_or(0, |page| page.first_row_index as usize), &pages[first..end])
    }

    /// A page, its header and where its body begins: what the header says fits the bytes that there are.
    fn page(&self, leaf: usize, page: &PageLocation) -> Checked<(Bytes, PageHeader, usize)> {
        let start = page.offset as usize;
        let bytes = get(&self.bytes, start..start + page.compressed_page_size as usize)?;
        let (header, header_bytes) = PageHeader::read(&bytes)
            .ok_or_else(|| format!("a page header of column {leaf} is not one of ours"))?;
        let (body, unpacked) = (bytes.len() - header_bytes, header.uncompressed_bytes as usize);
        let levels = u64::from(header.repetition_bytes) + u64::from(header.definition_bytes);
        let limit =
            if header.is_compressed { UNPACKED_BYTES.max(body.saturating_mul(UNPACKED_RATIO)) } else { body };
        let fits = header.compressed_bytes as usize == body
            && unpacked <= limit
            && levels <= body.min(unpacked) as u64
            && header.num_rows as usize <= self.num_rows();
        match fits {
            true => Ok((bytes, header, header_bytes)),
            false => Err(format!("a page of column {leaf} says {header:?} of {body} bytes")),
        }
    }

    /// Whether a column of a row group is stored as it is encoded.
    pub(super) fn is_uncompressed(&self, group: usize, leaf: usize) -> bool {
        self.metadata.row_group(group).column(leaf).compression() == Compression::UNCOMPRESSED
    }

    /// The bodies of all pages of an uncompressed column without levels, whose checksums hold: encoding, number of rows, values.
    /// None where the header of a page, which is not under its checksum, or its place says that it is another one.
    pub(super) fn bodies(&self, group: usize, leaf: usize) -> Result<Option<Vec<(u32, usize, Bytes)>>> {
        let damaged = |reason: String| CacheError::damaged(&self.path, None, reason);
        let (mut bodies, mut first_row) = (Vec::new(), 0);
        for place in self.pages(group, leaf) {
            let (bytes, header, start) = self.page(leaf, place).map_err(damaged)?;
            let body = bytes.slice(start..);
            let plain = PageHeader {
                uncompressed_bytes: body.len() as u32,
                compressed_bytes: body.len() as u32,
                crc: header.crc,
                num_values: header.num_rows,
                num_rows: header.num_rows,
                encoding: header.encoding,
                ..PageHeader::default()
            };
            if header != plain || place.first_row_index != first_row {
                return Ok(None);
            }
            first_row += i64::from(header.num_rows);
            let crc = crc32fast::hash(&body);
            if crc != header.crc {
                return Err(damaged(format!("page checksum {crc:08x}, expected {:08x}", header.crc)));
            }
            bodies.push((header.encoding, header.num_rows as usize, body));
        }
        Ok(Some(bodies))
    }

    /// Gives up where the pages of a column lie, because it is known elsewhere: as many entries as there are rows.
    pub(super) fn without_pages_of(self, leaf: usize) -> Self {
        let mut builder = self.metadata.into_builder();
        let mut index = builder.take_offset_index();
        let columns = index.iter_mut().flatten().filter_map(|columns| columns.get_mut(leaf));
        columns.for_each(|column| *column = OffsetIndexBuilder::new().build());
        Self { metadata: builder.set_offset_index(index).build(), ..self }
    }
}

/// What reading needs of a footer. The schema it was read with, which is the same in each file, gives way to the format's one,
/// and what is said for people goes.
fn with_schema(metadata: ParquetMetaData, schema: &SchemaDescPtr) -> ParquetResult<ParquetMetaData> {
    let column = |(leaf, column): (&ColumnDescPtr, &ColumnChunkMetaData)| {
        ColumnChunkMetaData::builder(leaf.clone())
            .set_compression_codec(column.compression_codec())
            .set_encodings_mask(*column.encodings_mask())
            .set_num_values(column.num_values())
            .set_total_compressed_size(column.compressed_size())
            .set_total_uncompressed_size(column.uncompressed_size())
            .set_data_page_offset(column.data_page_offset())
            .set_dictionary_page_offset(column.dictionary_page_offset())
            .build()
    };
    let group = |group: &RowGroupMetaData| {
        if group.num_columns() != schema.num_columns() {
            return Err(ParquetError::General("a row group has not a chunk for each column".into()));
        }
        let columns = schema.columns().iter().zip(group.columns()).map(column);
        let columns = columns.collect::<ParquetResult<Vec<_>>>()?;
        RowGroupMetaData::builder(schema.clone())
            .set_num_rows(group.num_rows())
            .set_total_byte_size(group.total_byte_size())
            .set_column_metadata(columns)
            .build()
    };
    let groups = metadata.row_groups().iter().map(group).collect::<ParquetResult<Vec<_>>>()?;
    let file = metadata.file_metadata();
    let file = FileMetaData::new(file.version(), file.num_rows(), None, None, schema.clone(), None);
    let mut builder = metadata.into_builder();
    let index = builder.take_offset_index();
    Ok(ParquetMetaDataBuilder::new(file).set_row_groups(groups).set_offset_index(index).build())
}

/// The first bytes of values, which a page may hold compressed.
fn first_bytes(values: &[u8], is_compressed: bool) -> Option<Vec<u8>> {
    let mut front = Vec::with_capacity(FRONT);
    if !is_compressed {
        front.extend(values.iter().take(FRONT));
        return Some(front);
    }
    let decoder = zstd::stream::read::Decoder::with_buffer(values).ok()?;
    decoder.take(FRONT as u64).read_to_end(&mut front).ok()?;
    Some(front)
}

/// Parses footer and page index, once both are known to be whole.
fn read_metadata(bytes: &FileBytes) -> Checked<ParquetMetaData> {
    let end = bytes.len().checked_sub(8).ok_or("it is too short")?;
    let ending = get(bytes, end..end + 4)?;
    let length = u32::from_le_bytes([ending[0], ending[1], ending[2], ending[3]]) as usize;
    let footer = end.checked_sub(length).map(|start| get(bytes, start..end)).transpose()?;
    if !footer.is_some_and(|footer| holds_struct(&footer)) {
        return Err("its footer is not whole".into());
    }
    let footer = || {
        ParquetMetaDataReader::new()
            .with_column_index_policy(PageIndexPolicy::Skip)
            .with_offset_index_policy(PageIndexPolicy::Skip)
            .parse_and_finish(bytes)
    };
    let metadata = contained(footer)?;
    let mut columns = metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
    columns.try_for_each(|column| check_index(column, bytes))?;
    contained(|| {
        let mut reader = ParquetMetaDataReader::new_with_metadata(metadata)
            .with_column_index_policy(PageIndexPolicy::Skip)
            .with_offset_index_policy(PageIndexPolicy::Required);
        reader.read_page_indexes(bytes)?;
        reader.finish()
    })
}

/// The bytes of a column's page index are there and whole.
fn check_index(column: &ColumnChunkMetaData, bytes: &FileBytes) -> Checked<()> {
    let place = column.offset_index_offset().zip(column.offset_index_length());
    let range = place.and_then(|(offset, length)| range(offset, i64::from(length), bytes.len()));
    let index = range.map(|range| get(bytes, range)).transpose()?;
    match index.is_some_and(|index| holds_struct(&index)) {
        true => Ok(()),
        false => Err(format!("column `{}` has no whole page index", column.column_path())),
    }
}

fn get(bytes: &FileBytes, range: Range<usize>) -> Checked<Bytes> {
    bytes.get(range).map_err(|error| error.to_string())
}

/// A range of a file of `len` bytes, if it lies in it.
fn range(offset: i64, length: i64, len: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= len).then_some(start..end)
}

/// The rows of a row group whose columns and pages lie in the file and follow each other.
fn check_group(metadata: &ParquetMetaData, group: usize, len: usize) -> Checked<usize> {
    let wrong = |what: &str| format!("row group {group} {what}");
    let row_group = metadata.row_group(group);
    let rows = usize::try_from(row_group.num_rows()).map_err(|_| wrong("has fewer rows than none"))?;
    let index = metadata
        .offset_index()
        .and_then(|index| index.get(group))
        .ok_or_else(|| wrong("has no page index"))?;
    if index.len() != row_group.num_columns() {
        return Err(wrong("has not a page index for each column"));
    }
    for (column, index) in row_group.columns().iter().zip(index) {
        let pages = index.page_locations();
        let inside =
            |page: &PageLocation| range(page.offset, i64::from(page.compressed_page_size), len).is_some();
        let ascend = pages.windows(2).all(|pair| pair[0].first_row_index < pair[1].first_row_index);
        let last = pages.last().map_or(-1, |page| page.first_row_index);
        let begins = pages
            .first()
            .map_or(rows == 0, |page| page.first_row_index == 0 && page.offset == column.data_page_offset());
        let chunk = range(column.data_page_offset(), column.compressed_size(), len);
        let fits = chunk.is_some()
            && column.dictionary_page_offset().is_none()
            && pages.iter().all(inside)
            && ascend
            && begins
            && last < rows.max(1) as i64;
        if !fits {
            return Err(wrong(&format!("has pages of `{}` where they cannot be", column.column_path())));
        }
    }
    Ok(rows)
}

/// Runs the `parquet` crate; a panic of it is an error.
fn contained<T>(read: impl FnOnce() -> ParquetResult<T>) -> Checked<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(outcome) => outcome.map_err(|error: ParquetError| error.to_string()),
        Err(_) => Err("its values do not decode".into()),
    }
}

/// The rows of a whole small table.
pub(super) fn read_table(path: &Path, schema: &SchemaDescPtr) -> Result<Vec<Vec<Cell>>> {
    let file = ParquetFile::open(path.to_path_buf(), FileBytes::open(path, Access::Plain)?, schema)?;
    let mut table = Vec::with_capacity(file.num_rows());
    for (group, rows) in file.groups().enumerate() {
        table.extend(file.read(group, 0..schema.num_columns(), 0..rows.len())?);
    }
    Ok(table)
}
