//! MMMU's Parquet, its columns as on the hub.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::Row;

/// Image columns: `image_1` and on.
const IMAGES: usize = 7;

/// The file.
///
/// # Errors
/// When the Parquet writer refuses.
pub(super) fn file(rows: &[Row]) -> Result<Vec<u8>> {
    let mut columns = vec![
        ("id".to_owned(), texts(rows, |row| row.id.clone())),
        ("question".to_owned(), texts(rows, question)),
        ("options".to_owned(), texts(rows, options)),
        ("explanation".to_owned(), texts(rows, |_| String::new())),
    ];
    columns.extend((0..IMAGES).map(|place| (format!("image_{}", place + 1), images(rows, place))));
    columns.extend([
        ("img_type".to_owned(), texts(rows, |_| "['Icons and Symbols']".to_owned())),
        ("answer".to_owned(), texts(rows, |row| row.choice.letter().to_owned())),
        ("topic_difficulty".to_owned(), texts(rows, |row| difficulty(row).to_owned())),
        ("question_type".to_owned(), texts(rows, |_| "multiple-choice".to_owned())),
        ("subfield".to_owned(), texts(rows, |row| row.topic.to_owned())),
    ]);
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, it)| (name, it, true)))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

fn texts(rows: &[Row], text: impl Fn(&Row) -> String) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(text)))
}

/// The question behind the places of its images.
fn question(row: &Row) -> String {
    let places: String = (1..=row.pictures.len()).map(|number| format!("<image {number}>")).collect();
    format!("{places}{}", row.question)
}

/// A list as Python prints it; no option has a quote.
fn options(row: &Row) -> String {
    let quoted: Vec<String> = row.choice.options.iter().map(|option| format!("'{option}'")).collect();
    format!("[{}]", quoted.join(", "))
}

fn difficulty(row: &Row) -> &'static str {
    match row.level {
        Some(1) => "Easy",
        Some(3) => "Hard",
        _ => "Medium",
    }
}

/// The column of each row's picture number `place`, a struct of its bytes and a file name; null where there is none.
fn images(rows: &[Row], place: usize) -> ArrayRef {
    let pictures: Vec<Option<&[u8]>> =
        rows.iter().map(|row| row.pictures.get(place).map(Vec::as_slice)).collect();
    let path = |row: &Row| row.pictures.get(place).map(|_| format!("{}_{}.png", row.id, place + 1));
    let paths: StringArray = rows.iter().map(path).collect();
    let fields = Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ]);
    let are_there: NullBuffer = pictures.iter().map(Option::is_some).collect();
    let bytes: ArrayRef = Arc::new(BinaryArray::from_opt_vec(pictures));
    Arc::new(StructArray::new(fields, vec![bytes, Arc::new(paths)], Some(are_there)))
}
