//! The rows of a Parquet file as JSON fields and images.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use serde_json::{Map, Value};

use super::{ImageSource, cells, images};

/// Rows decoded at a time: few, since a row may hold megabytes of images.
const BATCH_ROWS: usize = 8;

/// Why a table cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is damaged or of a kind that is not read.
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    /// The file's pages are compressed in a way that is not read.
    #[error("is compressed with {0}: write it again with Snappy or Zstandard")]
    Compression(String),
}

/// One row.
pub struct TableRow {
    /// Columns that are not null, in the file's order.
    pub fields: Map<String, Value>,
    /// The images of each image column that is not null, or what is wrong with them.
    pub images: Vec<(String, Result<Vec<ImageSource>, String>)>,
}

/// The rows of a file, in order. Nothing follows an error.
pub struct Table {
    batches: Option<ParquetRecordBatchReader>,
    batch: Option<(RecordBatch, usize)>,
    image_root: PathBuf,
    image_columns: Vec<String>,
    num_read: u64,
    num_rows: u64,
    num_bytes: u64,
}

impl Table {
    /// Opens a file for the columns that `is_image` (paths in them start from `image_root`) or `is_field` accepts.
    ///
    /// # Errors
    /// When it is missing or no Parquet file.
    pub fn open(
        path: &Path,
        image_root: &Path,
        is_image: impl Fn(&str) -> bool,
        is_field: impl Fn(&str) -> bool,
    ) -> Result<Self, TableError> {
        let file = File::open(path)?;
        let num_bytes = file.metadata()?.len();
        // Without the writer's Arrow schema a text is always Utf8 and a list a List, whoever wrote the file.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)?;
        check_compression(builder.metadata())?;
        let names: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
        let wanted = (0..names.len()).filter(|&at| is_image(&names[at]) || is_field(&names[at]));
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.collect::<Vec<_>>());
        let num_rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build()?;
        let image_columns = names.into_iter().filter(|name| is_image(name)).collect();
        Ok(Self {
            batches: Some(batches),
            batch: None,
            image_root: image_root.to_owned(),
            image_columns,
            num_read: 0,
            num_rows,
            num_bytes,
        })
    }

    /// The names of a file's columns.
    ///
    /// # Errors
    /// When it is missing or no Parquet file.
    pub fn columns(path: &Path) -> Result<Vec<String>, TableError> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
        Ok(builder.schema().fields().iter().map(|field| field.name().clone()).collect())
    }

    /// Rows read so far.
    pub fn num_read(&self) -> u64 {
        self.num_read
    }

    /// About how many bytes of the file that is.
    pub fn bytes_read(&self) -> u64 {
        let share = self.num_read as f64 / self.num_rows.max(1) as f64;
        (share * self.num_bytes as f64) as u64
    }

    fn next_row(&mut self) -> Result<Option<TableRow>, TableError> {
        loop {
            if let Some((batch, at)) = self.batch.take().filter(|(batch, at)| *at < batch.num_rows()) {
                let row = self.row(&batch, at);
                self.batch = Some((batch, at + 1));
                self.num_read += 1;
                return Ok(Some(row));
            }
            let Some(batches) = &mut self.batches else { return Ok(None) };
            match batches.next() {
                Some(batch) => self.batch = Some((batch.map_err(ParquetError::from)?, 0)),
                None => return Ok(None),
            }
        }
    }

    fn row(&self, batch: &RecordBatch, row: usize) -> TableRow {
        let (mut fields, mut images) = (Map::new(), Vec::new());
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let name = field.name();
            if self.image_columns.contains(name) {
                let found = image_cell(column.as_ref(), row, &self.image_root).transpose();
                images.extend(found.map(|found| (name.clone(), found)));
            } else if let Some(value) = cells::value(column.as_ref(), row) {
                fields.insert(name.clone(), value);
            }
        }
        TableRow { fields, images }
    }
}

impl Iterator for Table {
    type Item = Result<TableRow, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row();
        // Arrow's reader gives an error again and again: it has no end of its own.
        if !matches!(row, Ok(Some(_))) {
            self.batches = None;
            self.batch = None;
        }
        row.transpose()
    }
}

fn check_compression(file: &ParquetMetaData) -> Result<(), TableError> {
    let columns = file.row_groups().iter().flat_map(RowGroupMetaData::columns);
    let is_read = |codec: &Compression| {
        matches!(codec, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_))
    };
    match columns.map(|column| column.compression()).find(|codec| !is_read(codec)) {
        // Levels are of no interest: `GZIP(GzipLevel(6))`.
        Some(codec) => {
            Err(TableError::Compression(codec.to_string().chars().take_while(|it| *it != '(').collect()))
        }
        None => Ok(()),
    }
}

/// The images of a cell: one or a list, each as bytes, as a path, or as a struct of both; none where the cell is null.
fn image_cell(column: &dyn Array, row: usize, root: &Path) -> Result<Option<Vec<ImageSource>>, String> {
    if column.is_null(row) {
        return Ok(None);
    }
    if let DataType::List(_) = column.data_type() {
        let list = column.as_list::<i32>().value(row);
        let images = (0..list.len()).map(|at| {
            let image = image(list.as_ref(), at, root)?;
            image.ok_or_else(|| format!("image {at} is null"))
        });
        return images.collect::<Result<_, _>>().map(Some);
    }
    Ok(image(column, row, root)?.map(|image| vec![image]))
}

fn image(column: &dyn Array, row: usize, root: &Path) -> Result<Option<ImageSource>, String> {
    if column.is_null(row) {
        return Ok(None);
    }
    match column.data_type() {
        DataType::Binary => Ok(Some(ImageSource::Bytes(column.as_binary::<i32>().value(row).into()))),
        DataType::Utf8 => images::locate(column.as_string::<i32>().value(row), root).map(Some),
        DataType::Struct(_) => {
            let fields = column.as_struct();
            // The bytes, and only without them the path: it names a file on the machine that made the dataset.
            for name in ["bytes", "path"] {
                let found =
                    fields.column_by_name(name).map(|field| image(field.as_ref(), row, root)).transpose()?;
                if let Some(found) = found.flatten() {
                    return Ok(Some(found));
                }
            }
            Err("an image has neither bytes nor a path".into())
        }
        other => Err(format!("an image is no {other}")),
    }
}
