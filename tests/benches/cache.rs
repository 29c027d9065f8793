//! The cache's codec and reader beside what they replace, on seeded features: `cargo bench --bench cache`.
//!
//! Rates are bytes of raw bf16 features per second, so that ratios can be read off one run: the cache
//! (`write_cache` with its syncs and digests) against the `parquet` crate's own byte-stream-split
//! pages with zstd-1, written to memory and read by row selection, and against memcpy.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap ends a benchmark as it should")]
#![allow(dead_code, reason = "the rows serve the tests as well")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float16Array, Float32Array, ListArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Float32Type};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;
use shared::cache::{CacheReader, CacheWriter, FeatureDtype, ReaderOptions, Row, WriterOptions};
use tempfile::TempDir;

#[path = "../tests/cache/rows.rs"]
mod rows;

const WIDTH: usize = 1024;
const SAMPLES: usize = 96;
const POSITIONS: usize = 256;

fn main() {
    let (dir, samples) = (tempfile::tempdir().unwrap(), samples());
    write_ours(dir.path(), &samples);
    let reader = CacheReader::open(dir.path()).unwrap();
    let raw: usize = samples.iter().map(|row| row.features.bytes.len()).sum();
    let ours = reader.manifest().totals.bytes as f64;
    eprintln!(
        "raw {raw} bytes; ours {:.3}x smaller; entropy bound of the byte planes {:.3}x; ArrowWriter {:.3}x",
        raw as f64 / ours,
        bound(&samples),
        raw as f64 / write_arrow(&samples).len() as f64
    );
    divan::main();
}

/// Samples of one size without wild values, so that only the arithmetic differs.
fn samples() -> Vec<Row> {
    let mut random = e2e::random::Random(5);
    let mut samples = rows::rows(5, SAMPLES, FeatureDtype::Bf16, WIDTH);
    for row in &mut samples {
        let meta = &mut row.meta;
        let tokens = POSITIONS as u32;
        meta.input_ids = vec![1; POSITIONS];
        meta.text = "x".repeat(POSITIONS);
        meta.offsets = (0..tokens).map(|at| (at, at + 1)).collect();
        meta.images.clear();
        row.image_files.clear();
        meta.positions = (0..tokens).collect();
        let scale = |i: usize| 0.05 + (i % WIDTH) as f32 / WIDTH as f32;
        let values: Vec<half::bf16> =
            (0..POSITIONS * WIDTH).map(|i| half::bf16::from_f32(random.normal() * scale(i))).collect();
        row.features = shared::cache::FeatureBlock::from_bf16(WIDTH, &values);
    }
    samples
}

/// Order-0 entropy of both planes, as the factor it allows.
fn bound(samples: &[Row]) -> f64 {
    let plane = |plane: usize| {
        let mut counts = [0f64; 256];
        let bytes = samples.iter().flat_map(|row| row.features.bytes.iter().skip(plane).step_by(2));
        bytes.for_each(|&byte| counts[byte as usize] += 1.0);
        let total: f64 = counts.iter().sum();
        counts
            .iter()
            .filter(|count| **count > 0.0)
            .map(|count| -count / total * (count / total).log2())
            .sum::<f64>()
    };
    16.0 / (plane(0) + plane(1))
}

fn write_ours(dir: &Path, samples: &[Row]) {
    let head = rows::head(FeatureDtype::Bf16, WIDTH);
    let identity = rows::identity(FeatureDtype::Bf16, WIDTH, &head);
    let mut writer = CacheWriter::open(dir, identity, WriterOptions::default()).unwrap();
    for row in samples {
        writer.append(row.clone()).unwrap();
    }
    writer.finish().unwrap();
}

/// The same features through the crate's own writer, at its best: byte-stream split, zstd-1, a page per row.
fn write_arrow(samples: &[Row]) -> Vec<u8> {
    let item = |kind| Arc::new(Field::new("element", kind, false));
    let inner = DataType::List(item(DataType::Float32));
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::BYTE_STREAM_SPLIT)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
        .set_data_page_row_count_limit(1)
        .set_write_batch_size(1)
        .build();
    let mut writer = None;
    for row in samples {
        let halves =
            row.features.bytes.chunks_exact(2).map(|v| half::bf16::from_le_bytes([v[0], v[1]]).to_f32());
        let values: ArrayRef = Arc::new(Float32Array::from_iter_values(halves));
        let lists = ListArray::new(
            item(DataType::Float32),
            OffsetBuffer::from_lengths([WIDTH; POSITIONS]),
            values,
            None,
        );
        let rows = ListArray::new(
            item(inner.clone()),
            OffsetBuffer::from_lengths([POSITIONS]),
            Arc::new(lists),
            None,
        );
        let batch = RecordBatch::try_from_iter([("features", Arc::new(rows) as ArrayRef)]).unwrap();
        let writer = writer.get_or_insert_with(|| {
            ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.clone())).unwrap()
        });
        writer.write(&batch).unwrap();
    }
    writer.unwrap().into_inner().unwrap()
}

fn raw_bytes(samples: usize) -> BytesCount {
    BytesCount::new(samples * POSITIONS * WIDTH * 2)
}

#[divan::bench(sample_count = 5)]
fn write_cache(bencher: Bencher) {
    let samples = samples();
    bencher.counter(raw_bytes(SAMPLES)).with_inputs(|| tempfile::tempdir().unwrap()).bench_values(
        |dir: TempDir| {
            write_ours(dir.path(), &samples);
            dir
        },
    );
}

#[divan::bench(sample_count = 5)]
fn write_arrow_writer(bencher: Bencher) {
    let samples = samples();
    bencher.counter(raw_bytes(SAMPLES)).bench(|| write_arrow(black_box(&samples)));
}

/// A list of float16 lists, as the crate's users write 16-bit features.
#[divan::bench(sample_count = 3)]
fn write_arrow_writer_float16(bencher: Bencher) {
    let samples = samples();
    bencher.counter(raw_bytes(SAMPLES)).bench(|| {
        let item = |kind| Arc::new(Field::new("element", kind, false));
        let inner = DataType::List(item(DataType::Float16));
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
            .build();
        let mut writer = None;
        for row in &samples {
            let halves =
                row.features.bytes.chunks_exact(2).map(|v| half::bf16::from_le_bytes([v[0], v[1]]).to_f32());
            let values: ArrayRef = Arc::new(Float16Array::from_iter_values(halves.map(half::f16::from_f32)));
            let lists = OffsetBuffer::from_lengths([WIDTH; POSITIONS]);
            let lists = ListArray::new(item(DataType::Float16), lists, values, None);
            let rows = OffsetBuffer::from_lengths([POSITIONS]);
            let rows = ListArray::new(item(inner.clone()), rows, Arc::new(lists), None);
            let batch = RecordBatch::try_from_iter([("features", Arc::new(rows) as ArrayRef)]).unwrap();
            let writer = writer.get_or_insert_with(|| {
                ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.clone())).unwrap()
            });
            writer.write(&batch).unwrap();
        }
        writer.unwrap().into_inner().unwrap()
    });
}

#[divan::bench(args = [true, false])]
fn read_random_bf16(bencher: Bencher, verify: bool) {
    let dir = tempfile::tempdir().unwrap();
    write_ours(dir.path(), &samples());
    let reader =
        CacheReader::open_with(dir.path(), ReaderOptions { verify, ..ReaderOptions::default() }).unwrap();
    let mut i = 0;
    bencher.counter(raw_bytes(1)).bench_local(|| {
        i = (i + 7) % SAMPLES;
        reader.features(i).unwrap()
    });
}

#[divan::bench]
fn read_random_as_f32(bencher: Bencher) {
    let dir = tempfile::tempdir().unwrap();
    write_ours(dir.path(), &samples());
    let reader = CacheReader::open(dir.path()).unwrap();
    let (mut i, mut out) = (0, Vec::new());
    bencher.counter(raw_bytes(1)).bench_local(|| {
        i = (i + 7) % SAMPLES;
        reader.features_f32(i, &mut out).unwrap();
        out[0]
    });
}

/// Byte planes in zstd-1 as it comes, decoded whole and put together: what our frames are measured against.
#[divan::bench]
fn read_stock_planes(bencher: Bencher) {
    let planes = |row: &Row| -> Vec<u8> {
        let values = row.features.bytes.chunks_exact(2);
        let low = values.clone().map(|value| value[0]);
        [vec![0; 2 * low.len()], low.collect(), values.map(|value| value[1]).collect()].concat()
    };
    let frames: Vec<Vec<u8>> =
        samples().iter().map(|row| zstd::bulk::compress(&planes(row), 1).unwrap()).collect();
    let mut decoder = zstd::bulk::Decompressor::new().unwrap();
    let (mut i, values) = (0, POSITIONS * WIDTH);
    bencher.counter(raw_bytes(1)).bench_local(|| {
        i = (i + 7) % SAMPLES;
        let planes = decoder.decompress(&frames[i], 4 * values).unwrap();
        let (low, high) = planes[2 * values..].split_at(values);
        low.iter().zip(high).map(|(&low, &high)| u16::from(low) | u16::from(high) << 8).collect::<Vec<u16>>()
    });
}

/// The stock path on our own file: one row selected, its page decoded into Arrow arrays.
#[divan::bench]
fn read_random_arrow_reader_same_file(bencher: Bencher) {
    let dir = tempfile::tempdir().unwrap();
    write_ours(dir.path(), &samples());
    read_by_arrow(bencher, File::open(dir.path().join("data/train-00000-of-00001.parquet")).unwrap());
}

/// The same on a stock file.
#[divan::bench]
fn read_random_arrow_reader(bencher: Bencher) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&write_arrow(&samples())).unwrap();
    read_by_arrow(bencher, file);
}

fn read_by_arrow(bencher: Bencher, file: File) {
    let mut i = 0;
    bencher.counter(raw_bytes(1)).bench_local(|| {
        i = (i + 7) % SAMPLES;
        let selection = RowSelection::from(vec![RowSelector::skip(i), RowSelector::select(1)]);
        let options = parquet::arrow::arrow_reader::ArrowReaderOptions::new()
            .with_page_index_policy(parquet::file::metadata::PageIndexPolicy::Optional);
        let builder =
            ParquetRecordBatchReaderBuilder::try_new_with_options(file.try_clone().unwrap(), options)
                .unwrap();
        let columns =
            ProjectionMask::columns(builder.parquet_schema(), ["features.list.element.list.element"]);
        let builder = builder.with_projection(columns);
        let batch = builder.with_row_selection(selection).build().unwrap().next().unwrap().unwrap();
        let lists = batch.column(0).as_list::<i32>().value(0);
        lists.as_list::<i32>().values().as_primitive::<Float32Type>().value(0)
    });
}

#[divan::bench]
fn read_meta(bencher: Bencher) {
    let dir = tempfile::tempdir().unwrap();
    write_ours(dir.path(), &samples());
    let reader = CacheReader::open(dir.path()).unwrap();
    let mut i = 0;
    bencher.bench_local(|| {
        i = (i + 7) % SAMPLES;
        reader.meta(i).unwrap()
    });
}

#[divan::bench]
fn memcpy(bencher: Bencher) {
    let source = vec![1u8; POSITIONS * WIDTH * 2];
    bencher.counter(raw_bytes(1)).bench(|| black_box(&source).clone());
}
