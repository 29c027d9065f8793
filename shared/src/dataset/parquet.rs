//! Parquet as the Hugging Face hub has it: a row's fields in columns, its images in a column of `struct<bytes, path>` or
//! a list of it. Only the columns that mean something are read, page by page: memory does not grow with a row group.

use std::path::Path;

use serde_json::Value;

use super::container::{Opening, RawRow, Rows, RowsError};
use super::format::Content;
use super::table::{Table, TableError};

/// Opens a Parquet file.
pub(super) fn open(path: &Path, opening: &Opening<'_>) -> Result<Box<dyn Rows>, RowsError> {
    let is_image = |name: &str| opening.image_columns.iter().any(|column| column == name);
    let is_field = |name: &str| opening.columns.iter().any(|column| column == name);
    Ok(Box::new(ParquetRows { table: Table::open(path, opening.image_root, is_image, is_field)? }))
}

struct ParquetRows {
    table: Table,
}

impl Rows for ParquetRows {
    fn next_row(&mut self) -> Result<Option<RawRow>, RowsError> {
        let index = self.table.num_read();
        let Some(row) = self.table.next().transpose()? else { return Ok(None) };
        let fields = row.fields.into_iter().map(|(name, value)| (name, transposed(value))).collect();
        let images: Result<Vec<_>, String> = row
            .images
            .into_iter()
            .filter(|(_, images)| images.as_ref().map_or(true, |images| !images.is_empty()))
            .map(|(name, images)| images.map_err(|why| format!("`{name}`: {why}")))
            .collect();
        let content = match images {
            Ok(images) if images.len() > 1 => Err("has images in two columns".to_owned()),
            Ok(images) => Ok(Content { fields: Value::Object(fields), images: images.into_iter().next() }),
            Err(reason) => Err(reason),
        };
        Ok(Some(RawRow { index, key: None, content }))
    }

    fn bytes_read(&self) -> u64 {
        self.table.bytes_read()
    }
}

/// A list of objects, where `datasets` stored it as an object of lists (its `Sequence` of a dictionary does that).
fn transposed(value: Value) -> Value {
    let Value::Object(columns) = value else { return value };
    let lengths: Option<Vec<usize>> = columns.values().map(|column| Some(column.as_array()?.len())).collect();
    let Some(num_rows) = lengths.as_deref().and_then(<[usize]>::first).copied() else {
        return Value::Object(columns);
    };
    let row = |at: usize| {
        let fields =
            columns.iter().filter_map(|(name, column)| Some((name.clone(), column.get(at)?.clone())));
        Value::Object(fields.collect())
    };
    Value::Array((0..num_rows).map(row).collect())
}

impl From<TableError> for RowsError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Io(error) => Self::Io(error),
            other => Self::Malformed(other.to_string()),
        }
    }
}
