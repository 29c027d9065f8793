//! Damaged and hostile files: an error that says what to do, no panic, and no memory beyond a cap.
//!
//! A small cache is mutated by seeded accidents and then, in half of the cases, signed again: lengths, digests and checksums in
//! the manifest are made to fit, as an attacker would, so that what lies behind them has to hold on its own.
//!
//! `make fuzz SECONDS=3600` goes on for as long as that; a seed that fails is printed and becomes a line of `FOUND`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::counting::{self, Counting};
use e2e::random::Random;
use e2e::rows::{fixture, resign};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use serde_json::{Value, json};
use shared::cache::{Access, CacheError, CacheReader, Manifest, ReaderOptions, verify};
use shared::ids::Digest;
use xxhash_rust::xxh3::xxh3_64;

/// Memory that a cache of some 20 KB may take at most, whatever its bytes say.
const CAP_BYTES: usize = 64 << 20;
const SEEDS: u64 = 1200;
/// Seeds that once failed: these two have fewer repetition levels than values, at which the `parquet` crate's `skip_records`
/// turns forever.
const FOUND: [u64; 2] = [4_294_967_296, 5_000_000_000];
/// `make fuzz` ends at a seed that takes longer than this, naming it: a cache of 20 KB is read in milliseconds.
const HANG: Duration = Duration::from_secs(60);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

type Files = BTreeMap<String, Vec<u8>>;

/// A finished cache of each kind, in memory.
fn caches() -> Vec<Files> {
    let root = fixture("cache_v1");
    let mut caches = Vec::new();
    for name in ["f32", "f16", "bf16", "bf16-int8", "bf16-none"] {
        let dir = root.join(name);
        let manifest = Manifest::load(&dir).unwrap();
        let names = manifest.files().map(|entry| entry.file.clone()).chain(["manifest.json".to_owned()]);
        caches.push(names.map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect());
    }
    caches
}

/// One accident, in the bytes from `from` on.
fn mutate(bytes: &mut Vec<u8>, from: usize, random: &mut Random) {
    let at = from + random.below(bytes.len() - from);
    match random.below(7) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        3 => {
            let len = (1 + random.below(9)).min(bytes.len() - at);
            bytes[at..at + len].fill(0xff);
        }
        4 => bytes.truncate(at),
        5 => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        _ => {
            let other = from + random.below(bytes.len() - from);
            bytes.swap(at, other);
        }
    }
}

/// Some bytes of a page's body change, and its checksum with them: what lies behind the checksum is the decoders.
fn mutate_page(shard: &mut [u8], random: &mut Random) {
    let whole = Bytes::copy_from_slice(shard);
    let reader = ParquetMetaDataReader::new().with_offset_index_policy(PageIndexPolicy::Required);
    let metadata = reader.parse_and_finish(&whole).unwrap();
    let index = metadata.offset_index().unwrap();
    let group = &index[random.below(index.len())];
    let pages = group[random.below(group.len())].page_locations();
    let page = &pages[random.below(pages.len())];
    let page = &mut shard[page.offset as usize..][..page.compressed_page_size as usize];
    // The header: three numbers, the checksum, then the counts, which end in three bytes of their own.
    let varint =
        |at: usize, page: &[u8]| at + page[at..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let crc_at = (0..3).fold(0, |at, _| varint(at + 1, page)) + 1;
    let counts_at = varint(crc_at, page) + 1;
    let body_at = (0..6).fold(counts_at, |at, _| varint(at + 1, page)) + 3;
    for _ in 0..1 + random.below(4) {
        let at = body_at + random.below(page.len() - body_at);
        page[at] = random.pick(&[0, 1, 0x7f, 0x80, 0xff, page[at] ^ 1, page[at] ^ 0x10]);
    }
    let crc = crc32fast::hash(&page[body_at..]) as i32;
    let mut zigzag = ((crc << 1) ^ (crc >> 31)) as u32;
    // As many bytes as there were: the shorter form is padded with empty continuations.
    let last = counts_at - 2;
    for (at, byte) in page.iter_mut().enumerate().take(last + 1).skip(crc_at) {
        *byte = (zigzag & 0x7f) as u8 | if at == last { 0 } else { 0x80 };
        zigzag >>= 7;
    }
}

/// A number or a word of a JSON document becomes another one.
fn mutate_json(value: &mut Value, random: &mut Random) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let at = random.below(items.len());
            mutate_json(&mut items[at], random);
        }
        Value::Object(fields) if !fields.is_empty() && random.below(8) > 0 => {
            let at = random.below(fields.len());
            if let Some(value) = fields.values_mut().nth(at) {
                mutate_json(value, random);
            }
        }
        Value::Number(_) => *value = random.pick(&[0, 1, 11, 13, 1 << 31, 1 << 40, u64::MAX]).into(),
        Value::String(text) => match random.below(3) {
            0 => text.clear(),
            1 => *text = "data/../../../etc/passwd".to_owned(),
            _ => *text = "f".repeat(random.pick(&[1, 16, 64])),
        },
        other => *other = Value::Null,
    }
}

/// Writes the cache with some accidents into `dir`; whether the manifest was made to fit.
fn write_mutated(dir: &Path, cache: &Files, random: &mut Random) {
    let mut cache = cache.clone();
    let names: Vec<String> = cache.keys().cloned().collect();
    let target = names[random.below(names.len())].clone();
    let is_signed = random.below(4) > 0;
    let manifest: Value = serde_json::from_slice(&cache["manifest.json"]).unwrap();
    let tail = manifest["shards"].as_array().unwrap().iter().find(|shard| shard["file"] == json!(target));
    let tail = tail.map_or(0, |shard| shard["tail_offset"].as_u64().unwrap() as usize);
    let bytes = cache.get_mut(&target).unwrap();
    // The footer is where a few bytes mean most.
    let from = if random.below(2) == 0 { tail } else { 0 };
    if tail > 0 && random.below(3) == 0 {
        mutate_page(bytes, random);
    } else if target != "manifest.json" || !is_signed {
        (0..1 + random.below(3)).for_each(|_| {
            if bytes.len() > from {
                mutate(bytes, from, random)
            }
        });
    }
    let bytes = bytes.clone();
    for (name, bytes) in &cache {
        fs::write(dir.join(name), bytes).unwrap();
    }
    if is_signed && target == "manifest.json" {
        let mutate = |manifest: &mut Value| {
            let fields = manifest.as_object_mut().unwrap();
            let at = random.below(fields.len());
            fields.values_mut().nth(at).into_iter().for_each(|value| mutate_json(value, random));
        };
        resign(dir, mutate).unwrap();
    } else if is_signed {
        resign(dir, |manifest| sign(manifest, &target, &bytes)).unwrap();
    }
}

/// Makes the manifest's entry of a file fit its bytes.
fn sign(manifest: &mut Value, name: &str, bytes: &[u8]) {
    let fit = |entry: &mut Value| {
        if entry["file"] != json!(name) {
            return;
        }
        entry["bytes"] = bytes.len().into();
        entry["digest"] = Digest::of(bytes).to_string().into();
        if let Some(tail) = entry.get("tail_offset").and_then(Value::as_u64) {
            let tail = bytes.get(tail as usize..).map_or(0, xxh3_64);
            entry["tail_xxh3"] = format!("{tail:016x}").into();
        }
    };
    manifest["shards"].as_array_mut().unwrap().iter_mut().for_each(fit);
    ["head", "card", "quarantine"].iter().for_each(|slot| fit(&mut manifest[*slot]));
}

/// Reads all there is, going on after errors; the first of them.
fn read_everything(dir: &Path, is_verified: bool, access: Access) -> Result<(), CacheError> {
    let report = verify(dir, |_, _| ());
    let reader = CacheReader::open_with(dir, ReaderOptions { verify: is_verified, access })?;
    let (mut wide, mut outcome) = (Vec::new(), Ok(()));
    let mut note = |result: Result<(), CacheError>| {
        if outcome.is_ok() {
            outcome = result;
        }
    };
    for i in 0..reader.len() {
        note(reader.meta(i).map(drop));
        note(reader.image_files(i).map(drop));
        note(reader.features(i).map(drop));
        note(reader.features_f32(i, &mut wide));
        note(reader.features_f32_at(i, reader.num_positions(i) / 2..reader.num_positions(i), &mut wide));
    }
    note(reader.quarantined().map(drop));
    note(reader.head().tensors().map(drop));
    note(reader.head().to_write().map(drop));
    note(report.map(drop));
    outcome
}

/// One seed, in a fresh folder.
fn attack(caches: &[Files], seed: u64) {
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    write_mutated(dir.path(), &caches[random.below(caches.len())], &mut random);
    let is_verified = random.below(2) == 0;
    let access = random.pick(&[Access::Map, Access::Plain]);
    let before = counting::reset_peak();
    let outcome = catch_unwind(AssertUnwindSafe(|| read_everything(dir.path(), is_verified, access)));
    let peak = counting::peak().saturating_sub(before);
    assert!(peak < CAP_BYTES, "seed {seed}: {peak} bytes were allocated");
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => assert!(error.to_string().contains("hint: "), "seed {seed}: {error}"),
        Err(_) => panic!("seed {seed} panicked"),
    }
}

/// Panics of the Parquet library become errors; their traces would be most of the time and all of the output.
fn quiet() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        if text.contains("seed ") {
            eprintln!("{text}");
        }
    }));
}

/// One test alone in this program, because memory is counted for all threads.
#[test]
fn hostile_files_are_refused_within_bounds() {
    static SEED: AtomicU64 = AtomicU64::new(0);
    let seconds = std::env::var("FUZZ_SECONDS").map_or(0, |text| text.parse().unwrap());
    let first: u64 = std::env::var("FUZZ_SEED").map_or(1 << 32, |text| text.parse().unwrap());
    quiet();
    watch(&SEED);
    let (caches, started) = (caches(), Instant::now());
    let further = (first..).take_while(|_| started.elapsed() < Duration::from_secs(seconds));
    let seeds = FOUND.into_iter().chain(0..SEEDS).chain(further);
    let attack = |seed: &u64| {
        SEED.store(*seed, Ordering::Relaxed);
        attack(&caches, *seed);
    };
    let done = seeds.inspect(attack).count();
    eprintln!("{done} mutated caches: no panic, no hang, no memory beyond {CAP_BYTES} bytes");
}

/// Ends the process when `seed` stays the same for too long: a decoder that turns forever cannot be stopped otherwise.
fn watch(seed: &'static AtomicU64) {
    std::thread::spawn(move || {
        let (mut last, mut since) = (seed.load(Ordering::Relaxed), Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = seed.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > HANG {
                eprintln!("seed {now} hangs");
                std::process::abort();
            }
        }
    });
}
