//! The feature cache against seeded samples, other Parquet readers' rules, interruption and damage.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

mod damage;
mod fixture;
mod resume;
mod roundtrip;
mod rows;
mod spec;

use std::path::Path;

use shared::cache::{CacheReader, CacheWriter, FeatureDtype, Row, WriterOptions};

const DTYPES: [FeatureDtype; 3] = [FeatureDtype::F32, FeatureDtype::F16, FeatureDtype::Bf16];
const WIDTH: usize = 12;

/// So small that a few rows fill a row group and a few row groups a shard.
fn tiny() -> WriterOptions {
    WriterOptions { shard_bytes: 6000, row_group_bytes: 2000, ..WriterOptions::default() }
}

fn open(dir: &Path, dtype: FeatureDtype, options: WriterOptions) -> shared::cache::Result<CacheWriter> {
    CacheWriter::open(dir, rows::identity(dtype, WIDTH, &rows::head(dtype, WIDTH)), options)
}

/// A complete cache of `samples` in `dir`.
fn write(dir: &Path, dtype: FeatureDtype, samples: &[Row]) {
    let mut writer = open(dir, dtype, tiny()).unwrap();
    rows::quarantined().into_iter().for_each(|row| writer.quarantine(row));
    writer.append_batch(samples.to_vec()).unwrap();
    writer.finish().unwrap();
}

/// The cache holds exactly these samples, bit for bit, whatever their order.
fn assert_holds(dir: &Path, samples: &[Row]) {
    let reader = CacheReader::open(dir).unwrap();
    assert_eq!(reader.len(), samples.len());
    for sample in samples {
        let i = reader.find(&sample.meta.key).expect("the sample's key");
        assert_eq!(reader.meta(i).unwrap(), sample.meta);
        assert_eq!(reader.features(i).unwrap(), sample.features);
        assert_eq!(reader.image_files(i).unwrap(), sample.image_files);
        assert_eq!((reader.key(i), reader.num_tokens(i)), (sample.meta.key, sample.meta.input_ids.len()));
        assert_eq!(reader.num_positions(i), sample.meta.positions.len());
    }
}
