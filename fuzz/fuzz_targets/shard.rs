//! A shard: footer, page index, index of samples and cells, its page checksums made to fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::cache::fuzzing;

fuzz_target!(
    // The reader makes an error of a panic of the `parquet` crate, before which libFuzzer's hook would abort. A panic that
    // nothing catches still ends the run.
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| {
        let _ = fuzzing::shard(bytes);
    }
);
