//! The index columns of a sound shard, whose bits the input flips: packed decoders beside the `parquet` crate's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::cache::fuzzing;

const SHARD: &[u8] = include_bytes!("../../tests/fixtures/cache_v1/bf16/data/train-00000-of-00002.parquet");

fuzz_target!(init: fuzzing::let_the_reader_catch_panics(), |bytes: &[u8]| {
    let _ = fuzzing::index(SHARD, bytes);
});
