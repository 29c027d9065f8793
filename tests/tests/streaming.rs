//! A dataset of any size is read with the memory of a few rows. A program of its own, since the kernel's peak is the
//! whole process's.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use shared::dataset::{DatasetOptions, open};
use shared::memory::peak_rss_bytes;

const ROWS: usize = 400;
const IMAGE_BYTES: usize = 256 << 10;
/// A quarter of the 100 MiB that each file has.
const GROWTH: u64 = 25 << 20;

/// Bytes that do not compress.
fn image(row: usize) -> Vec<u8> {
    let mut state = row as u64 + 1;
    let next = |state: &mut u64| {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 56) as u8
    };
    (0..IMAGE_BYTES).map(|_| next(&mut state)).collect()
}

/// One row group with everything in it, as careless writers make them.
fn write_parquet(path: &Path) {
    let fields = |name: &str, kind| Arc::new(Field::new(name, kind, true));
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(ROWS))
        .set_dictionary_enabled(false)
        .build();
    let batch = |row: usize| {
        let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![image(row).as_slice()]));
        let path: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
        let cell = StructArray::from(vec![
            (fields("bytes", DataType::Binary), bytes),
            (fields("path", DataType::Utf8), path),
        ]);
        RecordBatch::try_from_iter([
            ("image", Arc::new(cell) as ArrayRef),
            ("txt", Arc::new(StringArray::from(vec!["x"])) as ArrayRef),
        ])
        .unwrap()
    };
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batch(0).schema(), Some(properties)).unwrap();
    (0..ROWS).for_each(|row| writer.write(&batch(row)).unwrap());
    let metadata = writer.close().unwrap();
    assert_eq!(metadata.num_row_groups(), 1);
}

fn write_lines(path: &Path) {
    let mut file = File::create(path).unwrap();
    for row in 0..ROWS {
        let padding: String = image(row).iter().map(|byte| char::from(b'a' + byte % 26)).collect();
        let turns =
            format!(r#"[{{"role":"user","content":"?"}},{{"role":"assistant","content":"{padding}"}}]"#);
        writeln!(file, r#"{{"messages":{turns}}}"#).unwrap();
    }
}

/// Reads every row and image; how much the peak has grown.
fn growth(path: &Path) -> u64 {
    let before = peak_rss_bytes().unwrap();
    let mut num_rows = 0;
    for row in open(&[path.display().to_string()], &DatasetOptions::default()).unwrap() {
        let record = row.unwrap().unwrap();
        let num_bytes: usize = record.images.iter().map(|image| image.read().unwrap().len()).sum();
        assert!(record.images.is_empty() || num_bytes == IMAGE_BYTES);
        num_rows += 1;
    }
    assert_eq!(num_rows, ROWS);
    peak_rss_bytes().unwrap() - before
}

#[test]
fn memory_does_not_grow_with_the_dataset() {
    let dir = tempfile::tempdir().unwrap();
    let (parquet, lines) = (dir.path().join("rows.parquet"), dir.path().join("rows.jsonl"));
    // The writer of Parquet holds a row group, so it works in another process: this program again.
    if let Some(path) = std::env::var_os("WRITE_PARQUET") {
        return write_parquet(Path::new(&path));
    }
    let test =
        std::process::Command::new(std::env::current_exe().unwrap()).env("WRITE_PARQUET", &parquet).status();
    assert!(test.unwrap().success());
    assert!(std::fs::metadata(&parquet).unwrap().len() > 4 * GROWTH - (1 << 20));
    write_lines(&lines);
    for path in [&parquet, &lines] {
        let growth = growth(path);
        assert!(growth < GROWTH, "reading `{}` took {growth} bytes more", path.display());
    }
}
