//! A run that was stopped or killed, and started again, ends bit-equal to one that ran through.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::distilled::{arguments, distill, distilled, metrics};
use e2e::programs::program;
use serde_json::Value;

/// Everything a run computed: its result's and its stages' files, and its metrics without those that are times or memory.
fn outcome(out: &Path) -> (Vec<(PathBuf, Vec<u8>)>, Vec<Value>) {
    let files = [
        "student/model.safetensors",
        "stages/align/recalibrator.safetensors",
        "stages/distill/recalibrator.safetensors",
        "stages/distill/student/model.safetensors",
        "stages/finetune/student/model.safetensors",
    ];
    let files = files.map(|name| (PathBuf::from(name), fs::read(out.join(name)).unwrap()));
    let mut rows = metrics(out).unwrap();
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        for field in ["tokens_per_second", "peak_rss_bytes", "loader_stall"] {
            row.remove(field).unwrap();
        }
    }
    (files.to_vec(), rows)
}

fn assert_same(out: &Path, whole: &Path) {
    let ((files, rows), (whole_files, whole_rows)) = (outcome(out), outcome(whole));
    assert_eq!(rows, whole_rows);
    for ((name, bytes), (_, whole)) in files.iter().zip(&whole_files) {
        assert!(bytes == whole, "{} differs", name.display());
    }
}

#[test]
fn stopping_in_every_stage_and_killing_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    distilled(&whole, &[]).unwrap();

    // Stages end at steps 4, 9 and 12; checkpoints are written every 2 steps. Stop inside each stage, between and on
    // checkpoints, and at a stage's last step.
    let stopped = dir.path().join("stopped");
    for (stop, resumed_from) in [(1, None), (4, Some(1)), (7, Some(4)), (9, Some(7)), (11, Some(9))] {
        let set = format!("checkpoint.stop_after_steps={stop}");
        // Recomputing blocks saves memory and changes no bit, so a run may go on with it or without.
        let recompute =
            format!("memory.recompute={}", if stop == 1 || stop == 9 { "never" } else { "always" });
        let finished = distill(&stopped, &["--set", &set, "--set", &recompute]).unwrap();
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        assert!(finished.stderr.contains("hint: the same command continues"), "{}", finished.stderr);
        if let Some(step) = resumed_from {
            assert!(
                finished.stderr.contains(&format!("continuing after step {step}")),
                "{}",
                finished.stderr
            );
        }
    }
    let summary = distilled(&stopped, &[]).unwrap();
    assert_eq!(summary["resumed_from"], 11);
    assert_same(&stopped, &whole);

    let killed = dir.path().join("killed");
    let num_kills = kill_until_done(&killed);
    assert!(num_kills >= 2, "the run was killed {num_kills} times only");
    assert_same(&killed, &whole);
}

/// A kill at any moment after a step leaves its checkpoint, files that go on behind it, and stages that ended before it.
#[test]
fn a_run_killed_behind_any_step_goes_on_from_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    // Samples above this length are left out and listed, of training and of the evaluation: 100 tokens are a middle one.
    let keys = [
        "checkpoint.every=1",
        "checkpoint.keep=99",
        "data.max_length=100",
        "data.max_bad=1.0",
        "ema.decay=0.5",
    ];
    let keys: Vec<&str> = keys.iter().flat_map(|key| ["--set", key]).collect();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    distilled(&whole, &keys).unwrap();
    let skipped = |out: &Path| fs::read_to_string(out.join("skipped.jsonl")).unwrap();
    let listed = skipped(&whole);
    assert!(listed.lines().count() > 12, "the list grows all along:\n{listed}");
    distilled(&killed, &keys).unwrap();
    for step in 0..=12 {
        // A stage's last step has its checkpoint before what the stage leaves.
        for is_left in [true, false].into_iter().take(if ENDS.contains(&step) { 2 } else { 1 }) {
            rewind(&killed, step, is_left);
            let summary = distilled(&killed, &keys).unwrap();
            assert_eq!(summary["resumed_from"].as_u64(), Some(step).filter(|step| *step > 0), "step {step}");
            assert_same(&killed, &whole);
            assert_eq!(skipped(&killed), listed, "step {step}");
        }
    }
}

/// The stages' last steps.
const ENDS: [u64; 3] = [4, 9, 12];

/// Takes away what a run has published after a step, and its end; what a stage that ended with this step left stays if it
/// `is_left`.
fn rewind(out: &Path, step: u64, is_left: bool) {
    for name in ["summary.json", "report.html"] {
        fs::remove_file(out.join(name)).unwrap();
    }
    let gone = |path: PathBuf| fs::remove_dir_all(path).unwrap();
    gone(out.join("student"));
    (step + 1..=12).for_each(|later| gone(out.join(format!("checkpoints/step-{later}"))));
    for (stage, end) in ["align", "distill", "finetune"].into_iter().zip(ENDS) {
        if end > step || (end == step && !is_left) {
            gone(out.join("stages").join(stage));
        }
    }
}

#[test]
fn a_short_run_keeps_the_checkpoints_of_its_stages_ends() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    distilled(&out, &["--set", "checkpoint.every=200"]).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(out.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    // The stages end at steps 4, 9 and 12, and `checkpoint.keep` is 2.
    assert_eq!(names, ["step-12", "step-9"]);
    let exported = |more: &[&str]| {
        let student = dir.path().join(more[1]).display().to_string();
        let run = out.display().to_string();
        let args = [&["export", run.as_str(), "--out", student.as_str(), "--dtype", "f32"], more].concat();
        let finished = e2e::programs::run("distill", args).unwrap();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        fs::read(Path::new(&student).join("model.safetensors")).unwrap()
    };
    for (step, stage) in [("9", "distill"), ("12", "finetune")] {
        assert!(exported(&["--step", step]) == exported(&["--after", stage]), "{stage}");
    }
}

#[test]
fn what_a_killed_end_left_undone_is_done_by_the_next_call() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let keys = ["--stages", "finetune"];
    let summary = distilled(&out, &keys).unwrap();
    let report = out.join("report.html");
    fs::remove_file(&report).unwrap();
    fs::write(out.join("images.bin"), "left").unwrap();
    assert_eq!(distilled(&out, &keys).unwrap(), summary);
    assert!(report.exists() && !out.join("images.bin").exists());
}

/// Starts the run again and again, killing it without warning each time it has written another checkpoint or a stage's
/// end; returns how often.
fn kill_until_done(out: &Path) -> usize {
    let mut num_kills = 0;
    loop {
        let before = progress(out);
        let mut child = program("distill").unwrap().args(arguments(out, &[]).unwrap()).spawn().unwrap();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                return num_kills;
            }
            if progress(out) > before + 1 {
                // SIGKILL: no handler runs.
                child.kill().unwrap();
                child.wait().unwrap();
                num_kills += 1;
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Counts what has been published, in a number that only grows.
fn progress(out: &Path) -> usize {
    let newest = |dir: &Path| {
        let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let steps = names.filter_map(|name| name.to_str()?.strip_prefix("step-")?.parse::<usize>().ok());
        steps.max().unwrap_or(0)
    };
    let ends = ["align", "distill", "finetune"].map(|stage| out.join("stages").join(stage).exists());
    newest(&out.join("checkpoints")) + ends.iter().filter(|end| **end).count()
}

#[test]
fn averages_and_small_moments_resume_exactly_and_are_what_a_stage_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ["--set", "ema.decay=0.5", "--set", "memory.optimizer=f8"];
    let run = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        distilled(&out, &[&keys[..], more].concat()).unwrap();
        out
    };
    let whole = run("whole", &[]);
    let stopped = dir.path().join("stopped");
    for stop in ["3", "7", "11"] {
        let set = format!("checkpoint.stop_after_steps={stop}");
        assert_eq!(distill(&stopped, &[&keys[..], &["--set", &set]].concat()).unwrap().code, Some(1));
    }
    distilled(&stopped, &keys).unwrap();
    assert_same(&stopped, &whole);

    // The averages change what a stage leaves, and not how it trains.
    let left = |out: &Path| fs::read(out.join("stages/align/recalibrator.safetensors")).unwrap();
    let losses = |out: &Path| -> Vec<Value> {
        metrics(out).unwrap().iter().take(4).map(|row| row["loss"].clone()).collect()
    };
    let plain = run("plain", &["--set", "ema.decay=0.0"]);
    let unused = run("unused", &["--set", "ema.evaluate=false", "--set", "ema.export=false"]);
    assert_eq!(losses(&whole), losses(&plain));
    assert!(left(&whole) != left(&plain));
    assert_same(&unused, &plain);
}

#[test]
fn another_runs_folder_is_refused_with_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let stop = ["--set", "checkpoint.stop_after_steps=2"];
    assert_eq!(distill(&out, &stop).unwrap().code, Some(1));
    let before = metrics(&out).unwrap();
    let finished = distill(&out, &["--set", "align.lr=0.5"]).unwrap();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("align.lr: expected 0.0001, got 0.5"), "{}", finished.stderr);
    assert!(finished.stderr.contains("hint:"), "{}", finished.stderr);
    assert_eq!(metrics(&out).unwrap(), before);
}
