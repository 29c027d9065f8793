//! Killed, stopped, out of space: what was committed stays valid, and the same command ends with the same cache.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
#![cfg(unix)]

use std::process::Command;

use e2e::jobs::{Job, signal};
use e2e::programs::{finished, program};
use e2e::rows::{contents, fixture, made_up};
use shared::cache::{Manifest, verify};

const ROWS: usize = 60;

#[test]
fn a_run_killed_again_and_again_ends_with_the_same_cache() {
    let job = Job::new(ROWS);
    let expected = job.expected();
    assert_eq!(expected.len(), ROWS);
    let mut last = 0;
    for samples in [1, 9, 10, 24, 40, 55] {
        let mut child = job.start_until("killed", samples);
        child.kill().unwrap();
        child.wait().unwrap();
        let Ok(manifest) = Manifest::load(&job.cache("killed")) else { continue };
        assert!(manifest.totals.samples >= last, "committed samples were lost");
        last = manifest.totals.samples;
        for (key, row) in contents(&job.cache("killed")).unwrap() {
            assert_eq!(expected[&key], row, "what is committed is whole");
        }
    }
    assert!(
        last > 0 && last < ROWS as u64,
        "killed before the end at least once, after the start at least once: {last}"
    );
    // The batch size may change on the way.
    let finished = job.run("killed", &["--max-tokens-per-batch", "700"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(contents(&job.cache("killed")).unwrap() == expected);
    let report = verify(job.cache("killed"), |_, _| ()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn a_signal_stops_at_a_commit_point() {
    let job = Job::new(ROWS);
    let expected = job.expected();
    for name in ["INT", "TERM"] {
        let child = job.start_until(name, 5);
        signal(&child, name);
        let stopped = finished(child.wait_with_output().unwrap()).unwrap();
        assert_eq!(stopped.code, Some(1), "{}", stopped.stderr);
        assert!(stopped.stderr.contains("hint: the same command continues"), "{}", stopped.stderr);
        let manifest = Manifest::load(&job.cache(name)).unwrap();
        assert!(!manifest.complete && manifest.totals.samples >= 5);
        assert_eq!(job.run(name, &[]).code, Some(0));
        assert!(contents(&job.cache(name)).unwrap() == expected, "{name}");
    }
}

#[test]
fn a_finished_run_does_nothing_again() {
    let job = Job::new(ROWS);
    job.expected();
    let state = |name: &str| {
        let path = job.cache("undisturbed").join(name);
        (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().modified().unwrap())
    };
    let before = state("manifest.json");
    let finished = job.run("undisturbed", &["--json"]);
    let summary: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((summary["written"].as_u64(), summary["resumed_from"].as_u64()), (Some(0), Some(ROWS as u64)));
    assert_eq!(summary["tokens_per_second"].as_f64(), Some(0.0));
    assert!(state("manifest.json") == before, "not a byte is written");
}

/// More rows for the same teacher join the cache; the others are not run again.
#[test]
fn a_grown_dataset_adds_its_new_rows() {
    let job = Job::new(ROWS);
    job.expected();
    made_up(job.dir.path(), ROWS + 5).unwrap();
    let finished = job.run("undisturbed", &["--json"]);
    let summary: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((summary["written"].as_u64(), summary["samples"].as_u64()), (Some(5), Some(ROWS as u64 + 5)));
}

/// A limit on the size of files stands for a full disk: the write fails with an error instead of going through.
#[test]
fn a_write_that_fails_is_reported_and_can_be_continued() {
    let job = Job::new(ROWS);
    let expected = job.expected();
    let binary = program("extract").unwrap().get_program().to_owned();
    // 2 blocks of 1 KiB in dash, of 512 bytes in a POSIX shell: enough for a manifest's start and for no shard of 256 MiB.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 40; exec \"$0\" \"$@\""]).arg(binary).args(job.args("full"));
    let failed = finished(shell.args(["--shard-size", "256MiB"]).output().unwrap()).unwrap();
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("cannot write") && failed.stderr.contains("hint: "), "{}", failed.stderr);
    assert_eq!(job.run("full", &[]).code, Some(0));
    assert!(contents(&job.cache("full")).unwrap() == expected);
}

#[test]
fn a_cache_of_another_teacher_or_setting_is_refused_with_the_difference() {
    let job = Job::new(ROWS);
    job.expected();
    let other = Job { teacher: fixture("internvl"), ..job };
    let refused = other.run("undisturbed", &[]);
    assert_eq!(refused.code, Some(1));
    for field in ["architecture", "weights", "tokenizer", "chat_template", "image_processor", "hint: "] {
        assert!(refused.stderr.contains(field), "{field} is not named: {}", refused.stderr);
    }
    let same = Job { teacher: fixture("qwen2_vl"), ..other };
    let refused = same.run("undisturbed", &["--features", "text"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("features: the cache has `answer`, this run has `text`"),
        "{}",
        refused.stderr
    );
    assert_eq!(contents(&same.cache("undisturbed")).unwrap().len(), ROWS);
}
