//! `distill run` on several caches: their shares bind a run, what is unlike is refused, and nothing depends on threads.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use e2e::distilled::{arguments, inputs, metrics};
use e2e::programs::{Finished, run};
use e2e::rows::{fixture, made_up};
use serde_json::Value;

/// The samples of the dataset's rows before the sixth, and the others, as two caches.
fn halves(dir: &Path) -> [PathBuf; 2] {
    ["row<6", "row>=6"].map(|condition| {
        let out = dir.join(condition.replace(['<', '>', '='], "-"));
        let [from, to] = [&inputs().unwrap().cache, &out].map(|path| path.display().to_string());
        let finished = run("extract", ["subset", to.as_str(), from.as_str(), "--where", condition]).unwrap();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        out
    })
}

/// A run of stages distill and finetune on a mixture, its other arguments those of every test.
fn mixed(out: &Path, caches: &[(&Path, f64)], more: &[&str]) -> Finished {
    let mut args = arguments(out, &["--stages", "distill,finetune", "--set", "eval.holdout=2"]).unwrap();
    let place = args.iter().position(|arg| arg == "--cache").unwrap();
    args.drain(place..place + 2);
    let line =
        |(cache, weight): &(&Path, f64)| format!("{{ cache = \"{}\", weight = {weight} }}", cache.display());
    let lines: Vec<String> = caches.iter().map(line).collect();
    args.extend(["--set".to_owned(), format!("data.mixture=[{}]", lines.join(", "))]);
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    run("distill", args).unwrap()
}

fn done(out: &Path, caches: &[(&Path, f64)], more: &[&str]) {
    let finished = mixed(out, caches, more);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

/// What a run computed: its metrics without what depends on the machine, and the student's bytes.
fn outcome(out: &Path) -> (Vec<Value>, Vec<u8>) {
    let mut rows = metrics(out).unwrap();
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        for field in ["tokens_per_second", "peak_rss_bytes", "loader_stall"] {
            row.remove(field).unwrap();
        }
    }
    (rows, fs::read(out.join("student/model.safetensors")).unwrap())
}

#[test]
fn a_mixture_resumes_exactly_whatever_the_workers_and_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let [few, many] = halves(dir.path());
    let caches = [(few.as_path(), 3.0), (many.as_path(), 1.0)];
    for (name, order) in [("alike", "data.groups_at_once=0"), ("groups", "data.groups_at_once=1")] {
        let keys = ["--set", order, "--set", "data.bucket_steps=2"];
        let [whole, parts] = ["whole", "parts"].map(|kind| dir.path().join(format!("{name}-{kind}")));
        done(&whole, &caches, &[&keys[..], &["--set", "data.workers=1"]].concat());
        for (stop, workers) in [("2", "3"), ("6", "2")] {
            let stop = format!("checkpoint.stop_after_steps={stop}");
            let workers = format!("data.workers={workers}");
            let more = ["--set", &stop, "--set", &workers, "--set", "data.memory_mib=0"];
            assert_eq!(mixed(&parts, &caches, &[&keys[..], &more].concat()).code, Some(1));
        }
        done(&parts, &caches, &keys);
        assert!(outcome(&whole) == outcome(&parts), "{name}: a stopped run differs");
    }
    let other = dir.path().join("other");
    done(&other, &[(few.as_path(), 1.0), (many.as_path(), 1.0)], &["--set", "data.bucket_steps=2"]);
    assert_ne!(outcome(&dir.path().join("alike-whole")).0, outcome(&other).0, "weights do not matter");

    let exported = dir.path().join("exported");
    let [from, to] = [&other, &exported].map(|path| path.display().to_string());
    assert_eq!(run("distill", ["export", &from, "--out", &to]).unwrap().code, Some(0));
    let card = fs::read_to_string(exported.join("README.md")).unwrap();
    for cache in [&few, &many] {
        assert!(card.contains(&format!("`{}`, weight 1 |", cache.display())), "{card}");
    }
    assert_eq!(card.matches("| cache fingerprint |").count(), 1, "{card}");
}

#[test]
fn another_mixture_is_refused_with_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let [few, many] = halves(dir.path());
    let out = dir.path().join("run");
    let stop = ["--set", "checkpoint.stop_after_steps=2"];
    let first = [(few.as_path(), 3.0), (many.as_path(), 1.0)];
    assert_eq!(mixed(&out, &first, &stop).code, Some(1));
    let weights = mixed(&out, &[(few.as_path(), 2.0), (many.as_path(), 1.0)], &[]);
    assert_eq!(weights.code, Some(1), "{}", weights.stderr);
    let expected = "mixture 0: expected weight 3, 6 samples";
    assert!(
        weights.stderr.contains(expected) && weights.stderr.contains("got weight 2"),
        "{}",
        weights.stderr
    );
    // The same caches elsewhere are the same mixture.
    let moved = dir.path().join("moved");
    fs::rename(&few, &moved).unwrap();
    done(&out, &[(moved.as_path(), 3.0), (many.as_path(), 1.0)], &[]);
}

#[test]
fn what_is_no_mixture_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [few, many] = halves(dir.path());
    let out = dir.path().join("run");
    let refused = |caches: &[(&Path, f64)], more: &[&str], code: i32, needles: &[&str]| {
        let finished = mixed(&out, caches, more);
        assert_eq!(finished.code, Some(code), "{}", finished.stderr);
        for needle in needles {
            assert!(finished.stderr.contains(needle), "`{needle}` is not in:\n{}", finished.stderr);
        }
        assert!(!out.join("metrics.jsonl").exists());
    };
    refused(&[(few.as_path(), 1.0), (few.as_path(), 2.0)], &[], 2, &["twice"]);
    refused(&[(few.as_path(), -1.0)], &[], 2, &["the weight of", "above 0"]);
    let cache = many.display().to_string();
    refused(&[(few.as_path(), 1.0)], &["--cache", &cache], 2, &["both `cache` and `data.mixture`", "hint:"]);
    refused(
        &[(few.as_path(), 1.0), (many.as_path(), 1e-4)],
        &[],
        1,
        &["less than one of an epoch's", "hint:"],
    );

    // Another teacher's cache of the same kind of rows.
    let unlike = dir.path().join("unlike");
    let data = made_up(dir.path(), 4).unwrap();
    let paths = [("--teacher", fixture("internvl")), ("--data", data), ("--out", unlike.clone())];
    let mut args = ["run", "--device", "cpu", "--features", "all"].map(str::to_owned).to_vec();
    args.extend(paths.iter().flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()]));
    assert_eq!(run("extract", args).unwrap().code, Some(0));
    let differs = ["were not made alike", "weights: expected", "hint: only caches of one teacher"];
    refused(&[(few.as_path(), 1.0), (unlike.as_path(), 1.0)], &[], 1, &differs);
}
