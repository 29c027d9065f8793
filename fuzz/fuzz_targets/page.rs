//! A feature page: its header, and its values by every decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::cache::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let _ = fuzzing::page(bytes);
});
