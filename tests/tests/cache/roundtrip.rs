//! What goes in comes out, bit for bit, by our reader and by the `parquet` crate's.

use std::fs::File;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Float32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use shared::cache::{
    Access, CacheError, CacheReader, FeatureBlock, FeatureDtype, ReaderOptions, Row, WriterOptions, verify,
};
use tempfile::tempdir;

use crate::{DTYPES, WIDTH, assert_holds, open, rows, tiny, write};

#[test]
fn every_dtype_comes_back_bit_for_bit() {
    for dtype in DTYPES {
        let dir = tempdir().unwrap();
        let samples = rows::rows(1, 90, dtype, WIDTH);
        write(dir.path(), dtype, &samples);
        assert_holds(dir.path(), &samples);
        let reader = CacheReader::open(dir.path()).unwrap();
        assert!(reader.manifest().complete && reader.manifest().shards.len() > 3);
        assert_eq!(reader.quarantined().unwrap(), rows::quarantined());
        assert_eq!(reader.manifest().totals.quarantined, 2);
        let tensors = reader.head().tensors().unwrap();
        let head = tensors.tensor("lm_head.weight").unwrap();
        assert_eq!(
            (head.shape(), head.data()),
            ([11, WIDTH].as_slice(), rows::head(dtype, WIDTH).as_slice())
        );
        let report = verify(dir.path(), |done, total| assert!(done <= total)).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(report.samples, 90);
    }
}

/// Widening, by IEEE 754: bf16 is the upper half of a float32; f16 through the `half` crate, but for
/// NaN, whose payload moves to the top of the wider fraction.
fn widened(block: &FeatureBlock) -> Vec<u32> {
    let halves = || block.bytes.chunks_exact(2).map(|value| u16::from_le_bytes([value[0], value[1]]));
    match block.dtype {
        FeatureDtype::F32 => {
            block.bytes.chunks_exact(4).map(|v| u32::from_le_bytes([v[0], v[1], v[2], v[3]])).collect()
        }
        FeatureDtype::Bf16 => halves().map(|value| u32::from(value) << 16).collect(),
        FeatureDtype::F16 => halves()
            .map(|value| match half::f16::from_bits(value) {
                nan if nan.is_nan() => {
                    u32::from(value & 0x8000) << 16 | 0x7f80_0000 | u32::from(value & 0x3ff) << 13
                }
                number => number.to_f32().to_bits(),
            })
            .collect(),
    }
}

#[test]
fn the_arrow_reader_agrees() {
    for dtype in DTYPES {
        let dir = tempdir().unwrap();
        write(dir.path(), dtype, &rows::rows(2, 50, dtype, WIDTH));
        let reader = CacheReader::open(dir.path()).unwrap();
        let (mut i, mut ours) = (0, Vec::new());
        for shard in &reader.manifest().shards {
            let file = File::open(dir.path().join(&shard.entry.file)).unwrap();
            for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
                let batch = batch.unwrap();
                let keys = batch.column_by_name("key").unwrap().as_string::<i32>().clone();
                let column = batch.column_by_name("features").unwrap().as_list::<i32>().clone();
                for row in 0..batch.num_rows() {
                    assert_eq!(keys.value(row), reader.key(i).to_string());
                    let lists = column.value(row);
                    let lists = lists.as_list::<i32>();
                    assert_eq!(lists.len(), reader.num_positions(i));
                    assert!((0..lists.len()).all(|at| lists.value_length(at) as usize == WIDTH));
                    let theirs: Vec<u32> = (0..lists.len())
                        .flat_map(|at| lists.value(at).as_primitive::<Float32Type>().values().to_vec())
                        .map(f32::to_bits)
                        .collect();
                    reader.features_f32(i, &mut ours).unwrap();
                    assert_eq!(theirs, ours.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
                    assert_eq!(theirs, widened(&reader.features(i).unwrap()));
                    i += 1;
                }
            }
        }
        assert_eq!(i, reader.len());
    }
}

#[test]
fn batches_and_shard_sizes_change_nothing() {
    let samples = rows::rows(3, 40, FeatureDtype::Bf16, WIDTH);
    for (batch, shard_bytes) in [(1, 1), (7, 3000), (40, 1 << 20)] {
        let dir = tempdir().unwrap();
        let mut writer =
            open(dir.path(), FeatureDtype::Bf16, shared::cache::WriterOptions { shard_bytes, ..tiny() })
                .unwrap();
        for rows in samples.chunks(batch) {
            writer.append_batch(rows.to_vec()).unwrap();
        }
        writer.finish().unwrap();
        assert_holds(dir.path(), &samples);
    }
}

/// A way to break a row, and what the refusal says.
type Breakage = (fn(&mut Row), &'static str);

#[test]
fn broken_rows_are_refused_and_the_rest_goes_on() {
    let breakages: [Breakage; 12] = [
        (|row| row.meta.positions.truncate(0), "no position has features"),
        (|row| row.meta.positions.swap(0, 1), "not strictly ascending"),
        (|row| row.meta.positions[0] = 0, "the last question position"),
        (|row| *row.meta.positions.last_mut().unwrap() = 10_000, "position 10000 of a sample"),
        (|row| row.meta.offsets.truncate(1), "character spans for"),
        (|row| row.meta.offsets[0].1 = 10_000, "token 0 spans characters"),
        (|row| row.meta.input_ids[0] = u32::MAX, "above 2^31 - 1"),
        (|row| row.meta.turns[1].num_answer_tokens = 1000, "the answer of turn 1 lies outside its turn"),
        (|row| row.meta.turns[1].num_tokens = 1000, "turn 1 ends after"),
        (|row| row.features.bytes.truncate(4), "4 bytes of features for"),
        (|row| row.features.width = 3, "of width 3, the cache holds f32 of width 12"),
        (|row| row.image_files = vec![b"another".to_vec()], "the file of image 0 is another one"),
    ];
    let dir = tempdir().unwrap();
    let mut writer = open(dir.path(), FeatureDtype::F32, tiny()).unwrap();
    let samples = rows::rows(4, 20, FeatureDtype::F32, WIDTH);
    for (i, (breakage, expected)) in breakages.into_iter().enumerate() {
        // Row 1 keeps only its answer's positions.
        let mut row = samples[1].clone();
        breakage(&mut row);
        let error = writer.append(row).unwrap_err();
        assert!(matches!(error, CacheError::Invariant { .. }), "{error}");
        assert!(error.to_string().contains(expected) && error.to_string().contains("hint:"), "{i}: {error}");
    }
    writer.append_batch(samples.clone()).unwrap();
    let twin = writer.append(samples[5].clone()).unwrap_err();
    assert!(matches!(twin, CacheError::Duplicate { .. }), "{twin}");
    writer.finish().unwrap();
    assert_holds(dir.path(), &samples);
}

#[test]
fn an_empty_cache_is_a_cache() {
    let dir = tempdir().unwrap();
    open(dir.path(), FeatureDtype::F16, tiny()).unwrap().finish().unwrap();
    assert!(CacheReader::open(dir.path()).unwrap().is_empty());
    assert!(verify(dir.path(), |_, _| ()).unwrap().problems.is_empty());
}

/// Any run of a sample's positions is that part of the whole; what it does not have is refused.
#[test]
fn some_positions_are_a_part_of_all() {
    for dtype in DTYPES {
        let dir = tempdir().unwrap();
        write(dir.path(), dtype, &rows::rows(32, 24, dtype, WIDTH));
        let reader = CacheReader::open(dir.path()).unwrap();
        for i in 0..reader.len() {
            let (mut all, mut some) = (Vec::new(), Vec::new());
            reader.features_f32(i, &mut all).unwrap();
            let positions = reader.num_positions(i);
            for start in 0..positions {
                for end in start + 1..=positions {
                    reader.features_f32_at(i, start..end, &mut some).unwrap();
                    let expected = all[start * WIDTH..end * WIDTH].iter().map(|value| value.to_bits());
                    assert!(some.iter().map(|value| value.to_bits()).eq(expected), "{dtype}: {start}..{end}");
                }
            }
            let outside = reader.features_f32_at(i, 0..positions + 1, &mut some).unwrap_err().to_string();
            assert!(outside.contains(&format!("of {positions}")), "{outside}");
            assert!(
                reader.features_f32_at(i, positions..positions, &mut some).is_err(),
                "no position at all"
            );
        }
    }
}

/// Equal whatever way the files are read, and whatever was fetched ahead.
#[test]
fn plain_reads_give_the_same_rows_as_a_map() {
    for dtype in DTYPES {
        let dir = tempdir().unwrap();
        let samples = rows::rows(31, 40, dtype, WIDTH);
        write(dir.path(), dtype, &samples);
        let options = ReaderOptions { access: Access::Plain, ..ReaderOptions::default() };
        let (map, plain) =
            (CacheReader::open(dir.path()).unwrap(), CacheReader::open_with(dir.path(), options).unwrap());
        map.will_need(0..map.len());
        plain.will_need(0..plain.len());
        assert_eq!(plain.head().bytes(), map.head().bytes());
        for sample in &samples {
            let i = plain.find(&sample.meta.key).unwrap();
            assert_eq!(map.find(&sample.meta.key), Some(i));
            let row = plain.row(i).unwrap();
            assert_eq!((&row.meta, &row.features), (&sample.meta, &sample.features));
            assert_eq!(row.image_files, map.image_files(i).unwrap());
            let (mut a, mut b) = (Vec::new(), Vec::new());
            map.features_f32(i, &mut a).unwrap();
            plain.features_f32(i, &mut b).unwrap();
            assert!(a.iter().map(|value| value.to_bits()).eq(b.iter().map(|value| value.to_bits())));
        }
    }
}

/// A file cut short after it was opened is an error of a plain read; a map could only end the process.
#[test]
fn a_plain_read_of_a_file_that_was_cut_short_is_an_error() {
    let dir = tempdir().unwrap();
    write(dir.path(), FeatureDtype::Bf16, &rows::rows(32, 20, FeatureDtype::Bf16, WIDTH));
    let options = ReaderOptions { access: Access::Plain, ..ReaderOptions::default() };
    let reader = CacheReader::open_with(dir.path(), options).unwrap();
    for shard in &reader.manifest().shards {
        File::options().write(true).open(dir.path().join(&shard.entry.file)).unwrap().set_len(10).unwrap();
    }
    for i in 0..reader.len() {
        assert!(matches!(reader.features(i), Err(CacheError::Damaged { .. })));
        assert!(matches!(reader.meta(i), Err(CacheError::Damaged { .. })));
    }
}

/// Block-shuffled samples of the same row group lie close together, and a rerun goes on where it stopped.
#[test]
fn block_shuffled_iteration_resumes_exactly() {
    let dir = tempdir().unwrap();
    write(dir.path(), FeatureDtype::Bf16, &rows::rows(33, 60, FeatureDtype::Bf16, WIDTH));
    let keys = |order: &[u32]| -> Vec<_> {
        let reader = CacheReader::open(dir.path()).unwrap();
        order.iter().map(|&i| reader.meta(i as usize).unwrap().key).collect()
    };
    let order = |seed, epoch| CacheReader::open(dir.path()).unwrap().block_shuffled(seed, epoch, 4);
    let whole = keys(&order(9, 1));
    assert_eq!(whole.iter().collect::<std::collections::BTreeSet<_>>().len(), 60);
    // Stopped after 23 samples and opened again.
    assert_eq!(keys(&order(9, 1)[23..]), whole[23..]);
    assert_ne!(keys(&order(9, 2)), whole);
    assert_ne!(keys(&order(10, 1)), whole);
}

/// Where the child of the test below finds its cache; by itself it does nothing.
const CACHE: &str = "GENRECAL_READS_PLAINLY";

#[test]
fn a_process_that_reads_plainly() {
    let Some(dir) = std::env::var_os(CACHE) else { return };
    let options = ReaderOptions { access: Access::Plain, ..ReaderOptions::default() };
    let reader = CacheReader::open_with(dir, options).unwrap();
    assert!(reader.manifest().shards.len() >= 40);
    (0..reader.len()).for_each(|i| drop(reader.row(i).unwrap()));
}

#[test]
fn plain_reads_take_more_shards_than_files_that_may_be_open_at_first() {
    let (dir, samples) = (tempdir().unwrap(), rows::rows(31, 40, FeatureDtype::F32, WIDTH));
    let options = WriterOptions { shard_bytes: 1, ..tiny() };
    let mut writer = open(dir.path(), FeatureDtype::F32, options).unwrap();
    writer.append_batch(samples).unwrap();
    writer.finish().unwrap();
    let mut child = std::process::Command::new("sh");
    child.args(["-c", "ulimit -Sn 30 && exec \"$0\" --exact roundtrip::a_process_that_reads_plainly"]);
    let output = child.arg(std::env::current_exe().unwrap()).env(CACHE, dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
