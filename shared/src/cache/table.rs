//! The small columns of a row group: cells to encoded column chunks, and back.
//!
//! The `parquet` crate encodes the values and levels; [`CheckedPages`] frames its pages, because
//! the crate writes no checksums. Reading goes through the crate, which verifies them.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType, Type, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriteSpec, PageWriter};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::column::writer::{ColumnCloseResult, ColumnWriter, get_column_writer};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr, WriterVersion};
use parquet::file::reader::RowGroupReader;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescriptor, SchemaDescPtr, SchemaDescriptor};

use super::commit::write_synced;
use super::error::{CacheError, Result};
use super::page::{DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, PLAIN, PageHeader};
use super::schema::Cell;

/// Rows of a small column's page: reading one sample's metadata decodes this many.
const ROWS_PER_PAGE: usize = 32;

/// The small columns that compress: text, and character offsets, which mostly count up.
const COMPRESSED: [&str; 5] = ["source", "messages", "text", "offsets", "reason"];

/// An encoded column chunk, ready to be spliced into a row group.
pub(super) type EncodedColumn = (Bytes, ColumnCloseResult);

/// The writer properties of every Parquet file of a cache.
pub(super) fn properties(schema: &SchemaDescriptor) -> WriterPropertiesPtr {
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_created_by(concat!("genrecal ", env!("CARGO_PKG_VERSION")).into())
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_row_count_limit(ROWS_PER_PAGE);
    for leaf in schema.columns() {
        let encoding = match leaf.physical_type() {
            Type::INT32 => Encoding::DELTA_BINARY_PACKED,
            Type::BYTE_ARRAY => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            _ => Encoding::PLAIN,
        };
        builder = builder.set_column_encoding(leaf.path().clone(), encoding);
        // Packed integers and digests gain nothing, and each compressed column costs a reader a decoder.
        if COMPRESSED.contains(&leaf.path().parts()[0].as_str()) {
            let zstd = Compression::ZSTD(ZstdLevel::default());
            builder = builder.set_column_compression(leaf.path().clone(), zstd);
        }
    }
    Arc::new(builder.build())
}

/// The first columns of a row group under construction.
pub(super) struct TableBuffer {
    columns: Vec<ColumnBuffer>,
}

struct ColumnBuffer {
    writer: ColumnWriter<'static>,
    pages: Arc<Mutex<Vec<u8>>>,
    max_definition: i16,
    max_repetition: i16,
}

impl TableBuffer {
    /// Buffers for the first `num_leaves` columns of `schema`.
    pub(super) fn new(
        schema: &SchemaDescriptor,
        properties: &WriterPropertiesPtr,
        num_leaves: usize,
    ) -> Self {
        let column = |leaf: &Arc<ColumnDescriptor>| {
            let pages = Arc::default();
            let sink = CheckedPages(Arc::clone(&pages));
            ColumnBuffer {
                writer: get_column_writer(leaf.clone(), properties.clone(), Box::new(sink)),
                pages,
                max_definition: leaf.max_def_level(),
                max_repetition: leaf.max_rep_level(),
            }
        };
        Self { columns: schema.columns()[..num_leaves].iter().map(column).collect() }
    }

    /// Appends one row.
    pub(super) fn push(&mut self, cells: Vec<Cell>) -> ParquetResult<()> {
        self.columns.iter_mut().zip(cells).try_for_each(|(column, cell)| column.push(cell))
    }

    /// The encoded columns, in order.
    pub(super) fn finish(self) -> ParquetResult<Vec<EncodedColumn>> {
        let finish = |column: ColumnBuffer| {
            let close = column.writer.close()?;
            let bytes = std::mem::take(&mut *column.pages.lock().unwrap_or_else(PoisonError::into_inner));
            Ok((Bytes::from(bytes), close))
        };
        self.columns.into_iter().map(finish).collect()
    }
}

impl ColumnBuffer {
    fn push(&mut self, cell: Cell) -> ParquetResult<()> {
        let count = cell.len();
        if count != 1 && self.max_definition == 0 {
            return Err(ParquetError::General(format!("{count} values in a required column")));
        }
        // An empty list and an absent value are one level below the maximum, without a value.
        let definition = if count == 0 { vec![0] } else { vec![self.max_definition; count] };
        let repetition: Vec<i16> = (0..definition.len()).map(|i| i16::from(i > 0)).collect();
        let definition = (self.max_definition > 0).then_some(definition.as_slice());
        let repetition = (self.max_repetition > 0).then_some(repetition.as_slice());
        match (&mut self.writer, cell) {
            (ColumnWriter::Int32ColumnWriter(writer), Cell::I32(values)) => {
                writer.write_batch(&values, definition, repetition)?
            }
            (ColumnWriter::Int64ColumnWriter(writer), Cell::I64(values)) => {
                writer.write_batch(&values, definition, repetition)?
            }
            (ColumnWriter::ByteArrayColumnWriter(writer), Cell::Bytes(values)) => {
                let values: Vec<ByteArray> = values.into_iter().map(ByteArray::from).collect();
                writer.write_batch(&values, definition, repetition)?
            }
            _ => return Err(ParquetError::General("a cell of another type than its column".into())),
        };
        Ok(())
    }
}

/// Frames the crate's pages with our header, checksum included.
struct CheckedPages(Arc<Mutex<Vec<u8>>>);

impl PageWriter for CheckedPages {
    fn write_page(&mut self, page: CompressedPage) -> ParquetResult<PageWriteSpec> {
        let &Page::DataPageV2 {
            num_values,
            encoding,
            num_nulls,
            num_rows,
            def_levels_byte_len: definition_bytes,
            rep_levels_byte_len: repetition_bytes,
            is_compressed,
            ..
        } = page.compressed_page()
        else {
            return Err(ParquetError::General("only version 2 data pages are written".into()));
        };
        let header = PageHeader {
            uncompressed_bytes: page.uncompressed_size() as u32,
            compressed_bytes: page.compressed_size() as u32,
            crc: crc32fast::hash(page.data()),
            num_values,
            num_nulls,
            num_rows,
            encoding: encoding_code(encoding)?,
            definition_bytes,
            repetition_bytes,
            is_compressed,
        };
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = pages.len();
        header.write(&mut pages);
        let header_bytes = pages.len() - offset;
        pages.extend_from_slice(page.data());
        let mut spec = PageWriteSpec::new();
        spec.page_type = PageType::DATA_PAGE_V2;
        spec.uncompressed_size = page.uncompressed_size() + header_bytes;
        spec.compressed_size = page.compressed_size() + header_bytes;
        spec.num_values = num_values;
        spec.offset = offset as u64;
        spec.bytes_written = (pages.len() - offset) as u64;
        Ok(spec)
    }

    fn close(&mut self) -> ParquetResult<()> {
        Ok(())
    }
}

/// The encodings that [`properties`] chooses, as the format's numbers.
fn encoding_code(encoding: Encoding) -> ParquetResult<u32> {
    match encoding {
        Encoding::PLAIN => Ok(PLAIN),
        Encoding::DELTA_BINARY_PACKED => Ok(DELTA_BINARY_PACKED),
        Encoding::DELTA_LENGTH_BYTE_ARRAY => Ok(DELTA_LENGTH_BYTE_ARRAY),
        other => Err(ParquetError::General(format!("unexpected encoding {other}"))),
    }
}

/// Reads the cells of `rows` (within the row group) from the columns `leaves`, each given with the first row of the page that
/// `rows` begin in: one `Vec` per row.
pub(super) fn read_cells(
    group: &dyn RowGroupReader,
    leaves: &[(usize, usize)],
    rows: Range<usize>,
) -> ParquetResult<Vec<Vec<Cell>>> {
    let mut table: Vec<Vec<Cell>> = rows.clone().map(|_| Vec::with_capacity(leaves.len())).collect();
    for &(leaf, page_start) in leaves {
        let column = read_column(group, leaf, page_start, rows.clone())?;
        table.iter_mut().zip(column).for_each(|(row, cell)| row.push(cell));
    }
    Ok(table)
}

/// Writes a whole small table to a new, synced file.
pub(super) fn write_table(
    path: &Path,
    schema: &SchemaDescPtr,
    rows: impl Iterator<Item = Vec<Cell>>,
) -> Result<()> {
    let fail = |error| CacheError::writing(path, error);
    let properties = properties(schema);
    let mut table = TableBuffer::new(schema, &properties, schema.num_columns());
    for row in rows {
        table.push(row).map_err(fail)?;
    }
    let mut file =
        SerializedFileWriter::new(Vec::new(), schema.root_schema_ptr(), properties).map_err(fail)?;
    let mut group = file.next_row_group().map_err(fail)?;
    for (bytes, close) in table.finish().map_err(fail)? {
        group.append_column(&bytes, close).map_err(fail)?;
    }
    group.close().map_err(fail)?;
    write_synced(path, &file.into_inner().map_err(fail)?)
}

fn read_column(
    group: &dyn RowGroupReader,
    leaf: usize,
    page_start: usize,
    rows: Range<usize>,
) -> ParquetResult<Vec<Cell>> {
    let (from, count) = (rows.start - page_start, rows.len());
    let max_definition = group.metadata().column(leaf).column_descr().max_def_level();
    let cells: Vec<Cell> = match group.get_column_reader(leaf)? {
        ColumnReader::Int32ColumnReader(reader) => {
            read_values(reader, page_start, rows.end, max_definition)?.skip(from).map(Cell::I32).collect()
        }
        ColumnReader::Int64ColumnReader(reader) => {
            read_values(reader, page_start, rows.end, max_definition)?.skip(from).map(Cell::I64).collect()
        }
        ColumnReader::ByteArrayColumnReader(reader) => {
            let own =
                |values: Vec<ByteArray>| Cell::Bytes(values.iter().map(|v| v.data().to_vec()).collect());
            read_values(reader, page_start, rows.end, max_definition)?.skip(from).map(own).collect()
        }
        _ => return Err(ParquetError::General(format!("column {leaf} has an unexpected type"))),
    };
    if cells.len() != count {
        return Err(ParquetError::General(format!("column {leaf} has {} of {} rows", cells.len(), count)));
    }
    Ok(cells)
}

/// The cells of the rows from `page_start`, where a page begins, to `end`.
///
/// Only whole pages are skipped: `skip_records` turns forever inside a page that has fewer repetition levels than values, which
/// `read_records` refuses.
fn read_values<D: DataType>(
    mut reader: ColumnReaderImpl<D>,
    page_start: usize,
    end: usize,
    max_definition: i16,
) -> ParquetResult<std::vec::IntoIter<Vec<D::T>>> {
    let (mut definition, mut repetition, mut values) = (Vec::new(), Vec::new(), Vec::new());
    reader.skip_records(page_start)?;
    reader.read_records(end - page_start, Some(&mut definition), Some(&mut repetition), &mut values)?;
    if max_definition == 0 {
        return Ok(values.into_iter().map(|value| vec![value]).collect::<Vec<_>>().into_iter());
    }
    let mut values = values.into_iter();
    let mut cells: Vec<Vec<D::T>> = Vec::with_capacity(end - page_start);
    // An optional column has no repetition levels: each of its entries opens a row.
    let levels = definition.iter().zip(repetition.iter().copied().chain(std::iter::repeat(0)));
    for (&level, repeated) in levels {
        if repeated == 0 {
            cells.push(Vec::new());
        }
        if let (true, Some(cell)) = (level == max_definition, cells.last_mut()) {
            cell.extend(values.next());
        }
    }
    Ok(cells.into_iter())
}
