//! What the fuzz targets of `fuzz/` call, on sound inputs, on accidents to them and on what was once found.
//!
//! `make fuzz-cargo` looks for more; an input that fails goes to `tests/fixtures/fuzzed/<target>/` and is tried here from then on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;

use e2e::random::Random;
use e2e::rows::fixture;
use shared::cache::fuzzing;

/// The caches of `cache_v1`, and how `fuzzing::page` counts their number types and codecs; their features have this width.
const CACHES: [(&str, [u8; 2]); 5] =
    [("f32", [0, 0]), ("f16", [1, 0]), ("bf16", [2, 0]), ("bf16-int8", [2, 1]), ("bf16-none", [2, 2])];
const WIDTH: u8 = 12;
/// Accidents to each sound input.
const ROUNDS: u64 = 100;

/// Inputs of a target that once failed.
fn found(target: &str) -> Vec<Vec<u8>> {
    let Ok(folder) = fs::read_dir(fixture("fuzzed").join(target)) else { return Vec::new() };
    folder.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

/// Sound inputs must be taken; of those with a few bytes changed, how many are.
fn attack(target: &str, sound: &[Vec<u8>], call: impl Fn(&[u8]) -> bool) -> usize {
    assert!(!sound.is_empty());
    let (mut random, mut taken) = (Random(11), 0);
    for (number, input) in sound.iter().enumerate() {
        assert!(call(input), "{target}: sound input {number}");
        for _ in 0..ROUNDS {
            let mut input = input.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(input.len());
                input[at] = if random.below(2) == 0 {
                    random.below(256) as u8
                } else {
                    input[at] ^ 1 << random.below(8)
                };
            }
            taken += usize::from(call(&input));
        }
    }
    // Taken or not: it must not panic.
    found(target).iter().for_each(|input| {
        call(input);
    });
    taken
}

/// Every shard of the fixtures, with what its pages are.
fn shards() -> Vec<([u8; 2], Vec<u8>)> {
    let data = |(name, kind): (&str, [u8; 2])| {
        let folder = fs::read_dir(fixture("cache_v1").join(name).join("data")).unwrap();
        folder.map(move |file| (kind, fs::read(file.unwrap().path()).unwrap()))
    };
    CACHES.into_iter().flat_map(data).collect()
}

#[test]
fn pages() {
    let stored = [vec![2, 0xb8, 0x0b, 0, 60, 60, 60, 60, 61, 61, 188, 189], vec![1, 0, 4, 0, 0, 0, 0, 7]];
    let mut sound: Vec<Vec<u8>> = stored.iter().map(|input| fuzzing::encode(input).unwrap()).collect();
    let pages = shards().into_iter().flat_map(|(kind, shard)| fuzzing::pages_of(&shard, kind, WIDTH));
    sound.extend(pages.step_by(5));
    assert!(attack("page", &sound, fuzzing::page) > 0, "a value that changed is still a value");
}

#[test]
fn stored_values() {
    let sound = [
        vec![2, 0, 0, 1, 60, 60, 60, 60, 61, 61, 188, 189],
        vec![0, 9, 2, 0, 1],
        vec![1, 200, 0, 0, 5, 5, 6],
    ];
    assert!(attack("encode", &sound, |input| fuzzing::encode(input).is_some()) > 0);
    assert!(fuzzing::encode(&[0, 0, 0, 0]).is_none(), "nothing to store");
}

#[test]
fn manifests() {
    let load = |(name, _): (&str, _)| fs::read(fixture("cache_v1").join(name).join("manifest.json")).unwrap();
    let sound: Vec<Vec<u8>> = CACHES.into_iter().map(load).collect();
    assert!(attack("manifest", &sound, fuzzing::manifest) > 0, "names for people may change");
}

#[test]
fn footers() {
    let sound: Vec<Vec<u8>> = shards().into_iter().map(|(_, shard)| shard).collect();
    assert!(attack("shard", &sound, fuzzing::shard) > 0, "a text may change");
}

#[test]
fn indexes() {
    for (_, shard) in shards() {
        assert!(attack("index", &[vec![0; 40]], |mask| fuzzing::index(&shard, mask)) < ROUNDS as usize);
    }
}
