//! Interruption at every point of the commit protocol, second writers, parts, refusals.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use shared::cache::{
    CacheError, CacheReader, CacheWriter, FeatureDtype, Manifest, Part, QuarantinedRow, Row, WriterOptions,
    verify,
};
use tempfile::{TempDir, tempdir};

use crate::{WIDTH, assert_holds, open, rows, tiny};

const BF16: FeatureDtype = FeatureDtype::Bf16;

fn samples() -> Vec<Row> {
    rows::rows(11, 60, BF16, WIDTH)
}

/// Appends what is not committed yet, as a run that continues does.
fn append_missing(writer: &mut CacheWriter, samples: &[Row]) {
    let missing = samples.iter().filter(|row| !writer.committed_keys().contains(&row.meta.key)).cloned();
    let missing: Vec<Row> = missing.collect();
    writer.append_batch(missing).unwrap();
}

fn files(dir: &Path) -> BTreeSet<String> {
    let names = |dir: PathBuf| {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap())
    };
    names(dir.to_path_buf())
        .chain(names(dir.join("data")))
        .filter(|name| !name.starts_with(".lock"))
        .collect()
}

fn copy(from: &Path) -> TempDir {
    let to = tempdir().unwrap();
    fs::create_dir(to.path().join("data")).unwrap();
    for name in files(from).iter().filter(|name| *name != "data") {
        let source =
            if from.join(name).exists() { PathBuf::from(name) } else { Path::new("data").join(name) };
        fs::copy(from.join(&source), to.path().join(&source)).unwrap();
    }
    to
}

#[test]
fn a_run_killed_between_commits_continues_where_the_last_one_ended() {
    let (dir, samples) = (tempdir().unwrap(), samples());
    for rows in samples.chunks(13) {
        // Each turn commits some full shards, leaves one under construction, and dies.
        let mut writer = open(dir.path(), BF16, tiny()).unwrap();
        writer.append_batch(rows.to_vec()).unwrap();
        let committed = writer.committed_keys().len() as u64;
        // What a kill leaves, which a drop would tidy up: a torn file under construction.
        fs::write(dir.path().join("data/.part-0-of-1-99.tmp"), b"PAR1 torn").unwrap();
        drop(writer);
        assert_eq!(Manifest::load(dir.path()).unwrap().totals.samples, committed);
    }
    let mut writer = open(dir.path(), BF16, tiny()).unwrap();
    assert!(!writer.committed_keys().is_empty() && writer.committed_keys().len() < samples.len());
    append_missing(&mut writer, &samples);
    writer.finish().unwrap();
    assert_holds(dir.path(), &samples);
    assert!(files(dir.path()).iter().all(|name| !name.ends_with(".tmp") && !name.ends_with(".next")));
    assert!(verify(dir.path(), |_, _| ()).unwrap().problems.is_empty());
}

#[test]
fn each_step_of_a_commit_is_a_good_place_to_die() {
    let (dir, samples) = (tempdir().unwrap(), samples());
    let options = WriterOptions { shard_bytes: 1 << 20, ..tiny() };
    let mut writer = open(dir.path(), BF16, options).unwrap();
    writer.append_batch(samples[..20].to_vec()).unwrap();
    writer.quarantine(rows::quarantined()[0].clone());
    writer.commit().unwrap();
    let before = copy(dir.path());
    writer.append_batch(samples[20..].to_vec()).unwrap();
    writer.quarantine(rows::quarantined()[1].clone());
    writer.commit().unwrap();
    drop(writer);
    let moved = [("data/train-00001.parquet", 20), ("quarantine.parquet", 1)];

    // Before the manifest: both files have their `.next` name, the old manifest rules.
    for (file, _) in moved {
        fs::copy(dir.path().join(file), before.path().join(format!("{file}.next"))).unwrap();
    }
    assert_holds(before.path(), &samples[..20]);
    assert_eq!(CacheReader::open(before.path()).unwrap().quarantined().unwrap(), rows::quarantined()[..1]);
    let writer = open(before.path(), BF16, options).unwrap();
    assert_eq!((writer.committed_keys().len(), writer.quarantined().len()), (20, 1));
    drop(writer);
    assert!(files(before.path()).iter().all(|name| !name.ends_with(".next")), "leftovers are removed");

    // After the manifest: the new one rules, the files still have their `.next` names.
    let after = copy(dir.path());
    for (file, _) in moved {
        fs::rename(after.path().join(file), after.path().join(format!("{file}.next"))).unwrap();
    }
    assert_holds(after.path(), &samples);
    let writer = open(after.path(), BF16, options).unwrap();
    assert_eq!((writer.committed_keys().len(), writer.quarantined().len()), (60, 2));
    assert!(
        after.path().join("data/train-00001.parquet").exists()
            && after.path().join("quarantine.parquet").exists()
    );
}

#[test]
fn a_finish_killed_while_it_renames_is_finished_later() {
    let (dir, samples) = (tempdir().unwrap(), samples());
    let mut writer = open(dir.path(), BF16, tiny()).unwrap();
    writer.append_batch(samples.clone()).unwrap();
    let manifest = writer.finish().unwrap();
    let names: Vec<String> = manifest.shards.iter().map(|shard| shard.entry.file.clone()).collect();
    let total = format!("-of-{:05}.parquet", names.len());
    assert!(names.iter().all(|name| name.ends_with(&total)), "{names:?}");
    for name in &names[1..] {
        fs::rename(dir.path().join(name), dir.path().join(name.replace(&total, ".parquet"))).unwrap();
    }
    assert_holds(dir.path(), &samples);
    drop(open(dir.path(), BF16, tiny()).unwrap());
    assert!(names.iter().all(|name| dir.path().join(name).exists()));
}

#[test]
fn a_complete_cache_takes_more_samples() {
    let (dir, samples) = (tempdir().unwrap(), samples());
    let mut writer = open(dir.path(), BF16, tiny()).unwrap();
    writer.append_batch(samples[..30].to_vec()).unwrap();
    let first = writer.finish().unwrap();
    let mut writer = open(dir.path(), BF16, tiny()).unwrap();
    append_missing(&mut writer, &samples);
    let second = writer.finish().unwrap();
    assert!(first.shards.len() < second.shards.len());
    assert_holds(dir.path(), &samples);
    let shards = files(dir.path()).iter().filter(|name| name.ends_with(".parquet")).count();
    assert_eq!(shards, second.shards.len());

    // Once more without news: nothing changes, not even a byte.
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let (manifest, card) = (read("manifest.json"), read("README.md"));
    open(dir.path(), BF16, tiny()).unwrap().finish().unwrap();
    assert!(manifest == read("manifest.json") && card == read("README.md"));
}

#[test]
fn a_row_that_gets_well_leaves_the_quarantine() {
    let (dir, samples) = (tempdir().unwrap(), samples());
    let mut writer = open(dir.path(), BF16, tiny()).unwrap();
    let bad = |row: &Row| QuarantinedRow {
        source: row.meta.source.clone(),
        row: row.meta.row,
        id: None,
        key: None,
        reason: "image file is empty".into(),
    };
    writer.quarantine(bad(&samples[0]));
    writer.quarantine(bad(&samples[1]));
    writer.commit().unwrap();
    writer.append(samples[1].clone()).unwrap();
    writer.finish().unwrap();
    let left = CacheReader::open(dir.path()).unwrap().quarantined().unwrap();
    assert_eq!(left, [bad(&samples[0])]);
}

#[test]
fn a_second_writer_is_refused_and_parts_work_together() {
    let (dir, samples) = (tempdir().unwrap(), samples());
    let part = |index| WriterOptions { part: Part { index, count: 2 }, ..tiny() };
    let alone = open(dir.path(), BF16, tiny()).unwrap();
    for options in [tiny(), part(0)] {
        let error = open(dir.path(), BF16, options).err().expect("refused");
        assert!(matches!(error, CacheError::Locked { .. }) && error.to_string().contains("hint:"), "{error}");
    }
    drop(alone);
    let (mut a, mut b) = (open(dir.path(), BF16, part(0)).unwrap(), open(dir.path(), BF16, part(1)).unwrap());
    for options in [tiny(), part(0), part(1)] {
        assert!(matches!(open(dir.path(), BF16, options), Err(CacheError::Locked { .. })));
    }
    for (first, second) in samples[..30].chunks(7).zip(samples[30..].chunks(7)) {
        a.append_batch(first.to_vec()).unwrap();
        b.append_batch(second.to_vec()).unwrap();
    }
    a.quarantine(rows::quarantined()[0].clone());
    b.quarantine(rows::quarantined()[1].clone());
    a.commit().unwrap();
    drop(a);
    let last = open(dir.path(), BF16, tiny());
    assert!(matches!(last, Err(CacheError::Locked { .. })), "part 1 is still at work");
    b.finish().unwrap();
    assert_holds(dir.path(), &samples);
    assert_eq!(CacheReader::open(dir.path()).unwrap().quarantined().unwrap(), rows::quarantined());
}

#[test]
fn another_fingerprint_is_refused_with_the_difference() {
    let dir = tempdir().unwrap();
    drop(open(dir.path(), BF16, tiny()).unwrap());
    let head = rows::head(BF16, WIDTH);
    let mut identity = rows::identity(BF16, WIDTH, &head);
    identity.fingerprint.insert("weights", "other");
    identity.fingerprint.insert("tokenizer", "new");
    let error = CacheWriter::open(dir.path(), identity, tiny()).err().unwrap().to_string();
    assert!(error.contains("weights: the cache has `") && error.contains("this run has `other`"), "{error}");
    assert!(error.contains("tokenizer: the cache has `(absent)`") && error.contains("hint:"), "{error}");
    let error = open(dir.path(), FeatureDtype::F16, tiny()).err().unwrap().to_string();
    assert!(error.contains("dtype: the cache has `bf16`, this run has `f16`"), "{error}");
}

#[test]
fn a_directory_with_other_things_in_it_is_left_alone() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), b"precious").unwrap();
    let error = open(dir.path(), BF16, tiny()).err().unwrap();
    assert!(
        matches!(error, CacheError::NotACache { .. }) && error.to_string().contains("thesis.tex"),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was added");
    let error = CacheReader::open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("manifest.json") && error.to_string().contains("hint:"), "{error}");

    let error = open(&dir.path().join("thesis.tex"), BF16, tiny()).err().unwrap();
    assert!(error.to_string().contains("it is a file\nhint: give `--out` a directory"), "{error}");

    // What a dataset repository, or another tool, calls as a cache does.
    for name in ["data/train-00000.parquet", "data/notes.txt", "head.safetensors"] {
        let dir = tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::write(dir.path().join(name), b"precious").unwrap();
        let error = open(dir.path(), BF16, tiny()).err().expect(name);
        assert!(
            matches!(error, CacheError::NotACache { .. }) && error.to_string().contains(name),
            "{name}: {error}"
        );
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"precious");
    }
}

#[test]
fn shards_whose_manifest_is_lost_are_not_written_over() {
    let (dir, samples) = (tempdir().unwrap(), samples());
    let mut writer = open(dir.path(), BF16, tiny()).unwrap();
    writer.append_batch(samples[..20].to_vec()).unwrap();
    writer.commit().unwrap();
    drop(writer);
    let manifest = fs::read(dir.path().join("manifest.json")).unwrap();
    fs::remove_file(dir.path().join("manifest.json")).unwrap();
    let error = open(dir.path(), BF16, tiny()).err().expect("refused").to_string();
    assert!(
        error.contains("no `manifest.json` but holds") && error.contains("put the manifest back"),
        "{error}"
    );
    fs::write(dir.path().join("manifest.json"), manifest).unwrap();
    assert_holds(dir.path(), &samples[..20]);
}

#[test]
fn whoever_may_read_the_manifest_may_read_the_head() {
    let dir = tempdir().unwrap();
    drop(open(dir.path(), BF16, tiny()).unwrap());
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("head.safetensors"), mode("manifest.json"));
}

#[test]
fn a_run_whose_cache_was_exchanged_leaves_the_other_one_alone() {
    let (dir, samples) = (tempdir().unwrap(), samples());
    let replaced = |outcome: Result<(), CacheError>| {
        let error = outcome.expect_err("refused");
        assert!(
            matches!(error, CacheError::Replaced { .. }) && error.to_string().contains("hint:"),
            "{error}"
        );
    };
    let options = WriterOptions { shard_bytes: 1 << 20, ..tiny() };
    // Removed, and begun anew by another process, whose file under construction has the same name.
    let mut first = open(dir.path(), BF16, options).unwrap();
    first.append_batch(samples[..20].to_vec()).unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    let mut second = open(dir.path(), BF16, options).unwrap();
    second.append_batch(samples[20..40].to_vec()).unwrap();
    replaced(first.commit());
    second.commit().unwrap();
    assert_holds(dir.path(), &samples[20..40]);

    // A manifest of before put back.
    let before = fs::read(dir.path().join("manifest.json")).unwrap();
    second.append_batch(samples[40..50].to_vec()).unwrap();
    second.commit().unwrap();
    fs::write(dir.path().join("manifest.json"), before).unwrap();
    second.append_batch(samples[50..].to_vec()).unwrap();
    replaced(second.commit());
}

#[test]
fn readers_and_verification_take_a_cache_that_is_being_written() {
    let (dir, samples) = (tempdir().unwrap(), samples());
    let quarantine = |number: u64| QuarantinedRow { row: 1000 + number, ..rows::quarantined()[0].clone() };
    let mut writer = open(dir.path(), BF16, tiny()).unwrap();
    writer.quarantine(quarantine(0));
    writer.append_batch(samples[..20].to_vec()).unwrap();
    writer.finish().unwrap();
    let early = CacheReader::open(dir.path()).unwrap();
    thread::scope(|scope| {
        // Each end of a run gives all shards new names, and exchanges card and quarantine table.
        let writing = scope.spawn(|| {
            for (number, row) in samples[20..].iter().enumerate() {
                let mut writer = open(dir.path(), BF16, tiny()).unwrap();
                writer.quarantine(quarantine(1 + number as u64));
                writer.append(row.clone()).unwrap();
                writer.finish().unwrap();
            }
        });
        while !writing.is_finished() {
            let reader = CacheReader::open(dir.path()).unwrap();
            assert!(reader.len() >= 20);
            (0..reader.len()).for_each(|i| drop(reader.features(i).unwrap()));
            let report = verify(dir.path(), |_, _| ()).unwrap();
            assert!(report.problems.is_empty(), "{:?}", report.problems);
        }
    });
    assert_eq!(early.quarantined().unwrap().len(), 41, "those of now");
    assert_holds(dir.path(), &samples);
}
