//! A shard: footer, page index, index of samples and cells, its page checksums made to fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::cache::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let _ = fuzzing::shard(bytes);
});
