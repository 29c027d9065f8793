//! Any flipped bit is found by `verify`, and no read ever returns a wrong value.

use e2e::random::Random;
use std::fs;
use std::path::Path;

use shared::cache::{
    CacheError, CacheIdentity, CacheReader, FeatureDtype, Manifest, Row, restore_manifest, verify,
};
use tempfile::tempdir;

use crate::{WIDTH, rows, write};

fn files(dir: &Path) -> Vec<String> {
    let mut files: Vec<String> =
        ["manifest.json", "README.md", "head.safetensors", "quarantine.parquet"].map(Into::into).into();
    let shards = fs::read_dir(dir.join("data")).unwrap();
    files.extend(shards.map(|entry| format!("data/{}", entry.unwrap().file_name().to_str().unwrap())));
    files
}

fn is_sound(dir: &Path) -> bool {
    verify(dir, |_, _| ()).is_ok_and(|report| report.problems.is_empty())
}

/// Reads everything; panics if anything comes back that is not what was written.
fn read_all(dir: &Path, samples: &[Row]) -> Result<(), CacheError> {
    let reader = CacheReader::open(dir)?;
    let mut wide = Vec::new();
    let mut outcome = Ok(());
    for i in 0..reader.len() {
        let sample =
            samples.iter().find(|row| row.meta.key == reader.key(i)).expect("a key that was written");
        let read = || -> Result<_, CacheError> {
            Ok((reader.meta(i)?, reader.image_files(i)?, reader.features(i)?))
        };
        match read() {
            Ok((meta, files, features)) => {
                assert_eq!((&meta, &files, &features), (&sample.meta, &sample.image_files, &sample.features));
                reader.features_f32(i, &mut wide)?;
            }
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

#[test]
fn every_flipped_bit_is_found_and_none_is_read() {
    let (dir, samples) = (tempdir().unwrap(), rows::rows(21, 24, FeatureDtype::Bf16, WIDTH));
    write(dir.path(), FeatureDtype::Bf16, &samples);
    assert!(is_sound(dir.path()));
    let mut random = Random(22);
    for file in files(dir.path()) {
        let path = dir.path().join(&file);
        let sound = fs::read(&path).unwrap();
        // The ends and the footers, where a few bytes mean much, and a sample of all bits.
        let edges = (0..8).chain(sound.len() - 12..sound.len()).map(|byte| byte * 8 + byte % 8);
        let others: Vec<usize> = (0..60).map(|_| random.below(sound.len() * 8)).collect();
        for bit in edges.chain(others) {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            assert!(!is_sound(dir.path()), "bit {bit} of {file}");
            // The card and the quarantine table hold no samples: reading them is unaffected.
            if let Err(error) = read_all(dir.path(), &samples) {
                assert!(error.to_string().contains("hint:"), "{error}");
            }
        }
        fs::write(&path, &sound).unwrap();
    }
    assert!(is_sound(dir.path()));
    read_all(dir.path(), &samples).unwrap();
}

#[test]
fn damage_names_file_and_row() {
    let (dir, samples) = (tempdir().unwrap(), rows::rows(23, 6, FeatureDtype::F32, WIDTH));
    write(dir.path(), FeatureDtype::F32, &samples);
    let reader = CacheReader::open(dir.path()).unwrap();
    let file = reader.manifest().shards[0].entry.file.clone();
    drop(reader);
    let path = dir.path().join(&file);
    let mut bytes = fs::read(&path).unwrap();
    // A file begins with the first row's features, 60 bytes or more behind the four of its name.
    bytes[64] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    let error = read_all(dir.path(), &samples).unwrap_err().to_string();
    assert!(error.contains(&file) && error.contains(", row ") && error.contains("page checksum"), "{error}");
    let report = verify(dir.path(), |_, _| ()).unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
}

#[test]
fn wrong_sets_of_files_are_refused() {
    let (dir, samples) = (tempdir().unwrap(), rows::rows(24, 30, FeatureDtype::F16, WIDTH));
    write(dir.path(), FeatureDtype::F16, &samples);
    let shard = files(dir.path()).into_iter().rfind(|file| file.starts_with("data/")).unwrap();
    let path = dir.path().join(&shard);
    let sound = fs::read(&path).unwrap();
    let refusal = || CacheReader::open(dir.path()).err().expect("refused").to_string();

    fs::write(&path, &sound[..sound.len() - 1]).unwrap();
    assert!(refusal().contains(&format!("{} bytes, expected {}", sound.len() - 1, sound.len())));
    fs::remove_file(&path).unwrap();
    assert!(refusal().contains(&shard), "a missing shard is named");
    fs::write(&path, &sound).unwrap();

    fs::copy(&path, dir.path().join("data/train-extra.parquet")).unwrap();
    let report = verify(dir.path(), |_, _| ()).unwrap();
    assert!(report.problems[0].to_string().contains("does not name it"), "{:?}", report.problems);
    fs::remove_file(dir.path().join("data/train-extra.parquet")).unwrap();

    let path = dir.path().join("manifest.json");
    let manifest = fs::read_to_string(&path).unwrap();
    fs::write(&path, manifest.replace("after final norm", "before final norm")).unwrap();
    assert!(refusal().contains("edited or damaged"));
    fs::write(&path, manifest.replace("\"format_version\": 1", "\"format_version\": 2")).unwrap();
    assert!(refusal().contains("format version 2, this program reads 1"));
    fs::write(&path, manifest).unwrap();
    assert!(is_sound(dir.path()));
}

/// The oldest caches that there are: their shards tell what their manifests said.
#[test]
fn a_lost_manifest_is_made_again_where_the_cache_confirms_it() {
    for (name, dtype, codec) in rows::FIXTURES {
        let (dir, head) = (tempdir().unwrap(), rows::head(dtype, WIDTH));
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cache_v1").join(name);
        fs::create_dir(dir.path().join("data")).unwrap();
        for file in files(&from) {
            fs::copy(from.join(&file), dir.path().join(&file)).unwrap();
        }
        let path = dir.path().join("manifest.json");
        let written = Manifest::load(dir.path()).unwrap();
        let identity = CacheIdentity { codec, ..rows::identity(dtype, WIDTH, &head) };
        let is_refused = |identity: &CacheIdentity| {
            let error = restore_manifest(dir.path(), identity).unwrap_err();
            assert!(matches!(error, CacheError::BeyondRepair { .. }), "{error}");
        };

        fs::remove_file(&path).unwrap();
        let mut other = identity.clone();
        other.fingerprint.insert("weights", "other");
        is_refused(&other);
        restore_manifest(dir.path(), &identity).unwrap();
        // What a codec cost nobody else has noted, so that the card, which says it, is to be written again.
        let mut found = Manifest::load(dir.path()).unwrap();
        if codec.is_lossy() {
            (found.lossy_error, found.card) = (written.lossy_error, written.card.clone());
        }
        assert_eq!(found, written, "{name}");

        // Without a card what is left of the manifest confirms it, or nothing does.
        let half = fs::read(&path).unwrap();
        fs::remove_file(dir.path().join("README.md")).unwrap();
        fs::write(&path, b"").unwrap();
        is_refused(&identity);
        fs::write(&path, &half[..half.len() / 2]).unwrap();
        restore_manifest(dir.path(), &identity).unwrap();
        assert_eq!(Manifest::load(dir.path()).unwrap().shards, written.shards, "{name}");
    }
}
