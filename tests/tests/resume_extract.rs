//! Killed, stopped, out of space: what was committed stays valid, and the same command ends with the same cache.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use e2e::programs::{Finished, finished, program, run};
use e2e::rows::{Contents, contents, fixture, made_up};
use shared::cache::{Manifest, verify};
use tempfile::TempDir;

const ROWS: usize = 60;

struct Job {
    dir: TempDir,
    teacher: PathBuf,
}

impl Job {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        made_up(dir.path(), ROWS).unwrap();
        Self { dir, teacher: fixture("qwen2_vl") }
    }

    fn cache(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Small batches, each a shard of its own: many moments to be killed at.
    fn args(&self, cache: &str) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut args: Vec<String> =
            ["run", "--device", "cpu", "--max-tokens-per-batch", "60", "--shard-size", "1KiB"]
                .map(String::from)
                .into();
        args.extend([
            "--teacher".to_owned(),
            text(&self.teacher),
            "--out".to_owned(),
            text(&self.cache(cache)),
        ]);
        args.extend(["--data".to_owned(), text(&self.dir.path().join("rows.jsonl"))]);
        args
    }

    fn run(&self, cache: &str, more: &[&str]) -> Finished {
        let args = self.args(cache).into_iter().chain(more.iter().map(|arg| (*arg).to_owned()));
        run("extract", args).unwrap()
    }

    /// What an undisturbed run gives.
    fn expected(&self) -> Contents {
        let finished = self.run("undisturbed", &[]);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        contents(&self.cache("undisturbed")).unwrap()
    }

    /// Starts a run and waits until its cache has at least `samples`, or the run is over.
    fn start_until(&self, cache: &str, samples: u64) -> Child {
        let mut child = program("extract").unwrap().args(self.args(cache)).spawn().unwrap();
        let committed = || Manifest::load(&self.cache(cache)).map_or(0, |manifest| manifest.totals.samples);
        while child.try_wait().unwrap().is_none() && committed() < samples {
            std::thread::sleep(Duration::from_millis(2));
        }
        child
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_run_killed_again_and_again_ends_with_the_same_cache() {
    let job = Job::new();
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
    let job = Job::new();
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
    let job = Job::new();
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
    let job = Job::new();
    job.expected();
    made_up(job.dir.path(), ROWS + 5).unwrap();
    let finished = job.run("undisturbed", &["--json"]);
    let summary: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((summary["written"].as_u64(), summary["samples"].as_u64()), (Some(5), Some(ROWS as u64 + 5)));
}

/// A limit on the size of files stands for a full disk: the write fails with an error instead of going through.
#[test]
fn a_write_that_fails_is_reported_and_can_be_continued() {
    let job = Job::new();
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
    let job = Job::new();
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
