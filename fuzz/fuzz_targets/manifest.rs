//! A manifest, signed so that its digest holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::cache::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let _ = fuzzing::manifest(bytes);
});
