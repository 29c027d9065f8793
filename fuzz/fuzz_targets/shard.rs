//! A shard: footer, page index, index of samples and cells, its page checksums made to fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::cache::fuzzing;

fuzz_target!(init: fuzzing::let_the_reader_catch_panics(), |bytes: &[u8]| {
    let _ = fuzzing::shard(bytes);
});
