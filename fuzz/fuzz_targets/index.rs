//! The index columns of a sound shard, whose bits the input flips: packed decoders beside the `parquet` crate's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::cache::fuzzing;

const SHARD: &[u8] = include_bytes!("../../tests/fixtures/cache_v1/bf16/data/train-00000-of-00002.parquet");

fuzz_target!(
    // The reader makes an error of a panic of the `parquet` crate, before which libFuzzer's hook would abort. A panic that
    // nothing catches still ends the run.
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| {
        let _ = fuzzing::index(SHARD, bytes);
    }
);
