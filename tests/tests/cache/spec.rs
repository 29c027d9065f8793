//! The specification, `shared/src/cache/mod.rs` and `docs/format.md`, says what the fixtures of version 1 hold: names both ways,
//! and the checksums as it defines them, computed here from the bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use e2e::rows::fixture;
use serde_json::Value;
use shared::cache::{CacheReader, Codec, SHARD_SCHEMA};
use shared::ids::Digest;
use xxhash_rust::xxh3::xxh3_64;

const CACHES: [&str; 5] = ["f32", "f16", "bf16", "bf16-int8", "bf16-none"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace")
}

/// The module's documentation, without its comment signs.
fn module() -> String {
    let source = fs::read_to_string(root().join("shared/src/cache/mod.rs")).unwrap();
    let lines = source.lines().filter_map(|line| line.strip_prefix("//!"));
    lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// From one heading to the next.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page.find(&format!("# {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let rest = &page[start + 2..];
    &rest[..rest.find("\n# ").unwrap_or(rest.len())]
}

/// Every word between backticks.
fn named(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn manifest(name: &str) -> (String, Value) {
    let text = fs::read_to_string(fixture("cache_v1").join(name).join("manifest.json")).unwrap();
    let value = serde_json::from_str(&text).unwrap();
    (text, value)
}

#[test]
fn the_manifests_fields_are_those_of_the_specification() {
    let module = module();
    let names = named(section(&module, "Manifest"));
    for name in CACHES {
        let (text, manifest) = manifest(name);
        for field in manifest.as_object().unwrap().keys() {
            let is_file =
                ["shards", "head", "quarantine", "card", "fingerprint_digest"].contains(&field.as_str());
            assert!(is_file || names.contains(field.as_str()), "`{field}` of {name} is not specified");
        }
        // Its last member is the BLAKE3 of all bytes before it.
        let (before, _) = text.split_once(",\n  \"digest\"").unwrap();
        assert_eq!(manifest["digest"], Digest::of(before.as_bytes()).to_string());
        for shard in manifest["shards"].as_array().unwrap() {
            let bytes =
                fs::read(fixture("cache_v1").join(name).join(shard["file"].as_str().unwrap())).unwrap();
            assert_eq!(shard["bytes"], bytes.len());
            assert_eq!(shard["digest"], Digest::of(&bytes).to_string());
            let tail = shard["tail_offset"].as_u64().unwrap() as usize;
            assert_eq!(shard["tail_xxh3"], format!("{:016x}", xxh3_64(&bytes[tail..])));
        }
    }
}

#[test]
fn columns_codecs_and_files_are_those_of_the_specification() {
    let module = module();
    // The columns at the schema's first level, by their indentation.
    let columns = SHARD_SCHEMA.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let columns = columns.filter_map(|line| line.split_whitespace().nth(2)).filter(|word| *word != "}");
    let columns: BTreeSet<&str> = columns.map(|word| word.trim_end_matches(';')).collect();
    let table = section(&module, "Shards").lines().filter(|line| line.starts_with("| `"));
    let specified: BTreeSet<&str> = table.flat_map(|line| named(line.split('|').nth(1).unwrap())).collect();
    assert_eq!(specified, columns);
    let codecs = section(&module, "Codecs").lines().filter_map(|line| line.strip_prefix("| `"));
    let codecs: BTreeSet<&str> = codecs.filter_map(|line| line.split('`').next()).collect();
    assert_eq!(codecs, Codec::all().map(Codec::name).collect());
    let short = fs::read_to_string(root().join("docs/format.md")).unwrap();
    assert!(codecs.iter().all(|codec| short.contains(&format!("`{codec}`"))));
    for name in CACHES {
        for file in fs::read_dir(fixture("cache_v1").join(name)).unwrap() {
            let file = file.unwrap().file_name().into_string().unwrap();
            assert!(module.contains(&file) && short.contains(&file), "{file}");
        }
    }
}

/// `features_xxh3` is over the teacher's own number type, little-endian, row by row.
#[test]
fn a_rows_checksum_is_the_one_that_is_specified() {
    let reader = CacheReader::open(fixture("cache_v1").join("bf16")).unwrap();
    let mut hashes = Vec::new();
    for shard in &reader.manifest().shards {
        let file = fs::File::open(reader.dir().join(&shard.entry.file)).unwrap();
        let builder = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        for batch in builder.build().unwrap() {
            let column = batch.unwrap().column_by_name("features_xxh3").unwrap().clone();
            let column = arrow::array::AsArray::as_primitive::<arrow::datatypes::UInt64Type>(&column).clone();
            hashes.extend(column.values().iter().copied());
        }
    }
    assert_eq!(hashes.len(), reader.len());
    for (i, hash) in hashes.into_iter().enumerate() {
        assert_eq!(xxh3_64(&reader.features(i).unwrap().bytes), hash);
    }
}
