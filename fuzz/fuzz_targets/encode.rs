//! Values to be stored: what the encoder makes of them, decoded in every way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::cache::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let _ = fuzzing::encode(bytes);
});
