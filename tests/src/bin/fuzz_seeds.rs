//! `fuzz_seeds CORPUS`: the first inputs of each target of `fuzz/`, from the caches in `tests/fixtures/cache_v1`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use e2e::rows::fixture;
use shared::cache::fuzzing;

/// The caches, and how `fuzzing::page` is told of their number type and codec.
const CACHES: [(&str, [u8; 2]); 5] =
    [("f32", [0, 0]), ("f16", [1, 0]), ("bf16", [2, 0]), ("bf16-int8", [2, 1]), ("bf16-none", [2, 2])];
/// Values of a position in these caches.
const WIDTH: u8 = 12;
/// What is stored for the target `page`, as `fuzzing::encode` is told: number type, number of values, and the bytes they have.
/// Skewed enough to be coded, some of more than a block.
const STORED: [(u8, u32, &[u8]); 4] = [
    (2, 3_000, &[60, 60, 60, 60, 61, 61, 62, 188, 188, 188, 189, 190]),
    (2, 290_000, &[1, 60, 60, 60, 60, 60, 61, 61, 62, 63, 188, 188, 188, 189, 191]),
    (1, 140_000, &[0, 0, 0, 0, 0, 7, 7, 9]),
    (0, 1_000, &[5, 5, 5, 5, 6]),
];

fn main() -> Result<()> {
    let corpus = PathBuf::from(std::env::args_os().nth(1).context("usage: fuzz_seeds CORPUS")?);
    let fixtures = fixture("cache_v1");
    let put = |target: &str, name: &str, bytes: &[u8]| -> Result<()> {
        fs::create_dir_all(corpus.join(target))?;
        Ok(fs::write(corpus.join(target).join(name), bytes)?)
    };
    put("index", "unchanged", &[0])?;
    for (number, (kind, values, urn)) in STORED.into_iter().enumerate() {
        let [low, middle, high, _] = values.to_le_bytes();
        let input = [&[kind, low, middle, high], urn].concat();
        put("encode", &format!("stored-{number}"), &input)?;
        put("page", &format!("stored-{number}"), &fuzzing::encode(&input).context("it is not stored")?)?;
    }
    for (name, kind) in CACHES {
        put("manifest", name, &fs::read(fixtures.join(name).join("manifest.json"))?)?;
        for shard in fs::read_dir(fixtures.join(name).join("data"))? {
            let path = shard?.path();
            let (stem, bytes) = (path.file_stem().unwrap_or_default().to_string_lossy(), fs::read(&path)?);
            put("shard", &format!("{name}-{stem}"), &bytes)?;
            for (number, page) in fuzzing::pages_of(&bytes, kind, WIDTH).iter().enumerate() {
                put("page", &format!("{name}-{stem}-{number}"), page)?;
            }
        }
    }
    Ok(())
}
