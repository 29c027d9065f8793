//! System calls that fail, several processes at once, and the two mixed with signals hundreds of times: each sample ends up in
//! the cache exactly once, whole, whatever happened on the way.
//!
//! `make test` interrupts a few times; `INTERRUPTIONS=300`, as `make check` has it, a few hundred.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use e2e::jobs::{Job, signal};
use e2e::programs::{Finished, finished};
use e2e::random::Random;
use e2e::rows::{Contents, contents};
use shared::cache::Manifest;

/// The fault-injecting layer `fixtures/fail_call.c`, compiled into the job's folder.
fn layer(job: &Job) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fail_call.c");
    let library = job.dir.path().join("fail_call.so");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(compiled.unwrap().success(), "the C compiler that the build needs anyway");
    library
}

/// Runs with the call number `at` failing.
fn run_failing(job: &Job, layer: &Path, cache: &str, (call, at): (&str, u64), more: &[&str]) -> Finished {
    let mut command = job.command(cache, more);
    command.env("LD_PRELOAD", layer).env("FAIL_CALL", call).env("FAIL_AT", at.to_string());
    finished(command.output().unwrap()).unwrap()
}

fn assert_clean(finished: &Finished) {
    assert!(matches!(finished.code, Some(0 | 1)), "{finished:?}");
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert!(finished.code == Some(0) || finished.stderr.contains("hint: "), "{}", finished.stderr);
}

#[test]
fn a_failing_call_loses_nothing_that_was_committed() {
    let job = Job::new(40);
    let (layer, expected) = (layer(&job), job.expected());
    for (call, numbers) in
        [("fsync", [2, 9, 17, 38]), ("rename", [1, 6, 12, 25]), ("write", [1, 30, 200, 500])]
    {
        let (mut before, mut failed) = (0, 0);
        for at in numbers {
            let finished = run_failing(&job, &layer, call, (call, at), &[]);
            assert_clean(&finished);
            failed += i32::from(finished.code == Some(1));
            let now = job.assert_valid(call, &expected);
            assert!(now >= before, "{call} {at}: {before} samples were committed, now there are {now}");
            before = now;
        }
        assert!(failed > 1, "{call}: the layer is not in effect");
        job.assert_completes(call, &expected);
    }
}

#[test]
fn parts_fill_one_cache_together() {
    let job = Job::new(40);
    let expected = job.expected();
    let children: Vec<Child> =
        ["0/3", "1/3", "2/3"].map(|part| job.command("parts", &["--part", part]).spawn().unwrap()).into();
    for child in children {
        let finished = finished(child.wait_with_output().unwrap()).unwrap();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    }
    assert!(contents(&job.cache("parts")).unwrap() == expected);
    assert!(Manifest::load(&job.cache("parts")).unwrap().complete, "the last part completes the cache");

    // One part alone does its own and completes nothing; another number of parts does the rest.
    let run = |part: &str| {
        let mut command = job.command("later", &[]);
        command.env("RANK", &part[..1]).env("WORLD_SIZE", &part[2..]);
        let finished = finished(command.output().unwrap()).unwrap();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        job.assert_valid("later", &expected)
    };
    let first = run("1/3");
    assert!(first > 0 && first < 40 && !Manifest::load(&job.cache("later")).unwrap().complete);
    run("0/2");
    assert!(
        !Manifest::load(&job.cache("later")).unwrap().complete,
        "one of three and one of two are not all"
    );
    assert_eq!(run("1/2"), 40);
    assert!(Manifest::load(&job.cache("later")).unwrap().complete);
}

#[test]
fn a_run_stops_before_the_disk_is_full() {
    let job = Job::new(12);
    let expected = job.expected();
    // No disk has this much room, so the first batch is the last.
    let stopped = job.run("low", &["--keep-free", "1000000GiB"]);
    assert_eq!(stopped.code, Some(1), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("bytes of free space left") && stopped.stderr.contains("`--keep-free`"));
    let committed = job.assert_valid("low", &expected);
    assert!(
        committed > 0 && committed < 12,
        "{committed}: what was computed is committed, the rest is not begun"
    );
    job.assert_completes("low", &expected);
}

/// One disturbed run; what disturbed it.
fn disturb(job: &Job, layer: &Path, cache: &str, random: &mut Random) -> &'static str {
    let (batch, part) = (random.pick(&["1", "60", "300"]), random.pick(&["0/1", "0/2", "1/2", "2/3"]));
    let more = ["--max-tokens-per-batch", batch, "--part", part];
    let disturbance = random.pick(&["KILL", "KILL", "TERM", "INT", "fsync", "rename", "write"]);
    if matches!(disturbance, "fsync" | "rename" | "write") {
        let bound = if disturbance == "write" { 600 } else { 60 };
        assert_clean(&run_failing(job, layer, cache, (disturbance, 1 + random.below(bound) as u64), &more));
        return disturbance;
    }
    let mut child = job.command(cache, &more).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(random.below(700) as u64));
    if child.try_wait().unwrap().is_none() {
        signal(&child, disturbance);
    }
    let finished = finished(child.wait_with_output().unwrap()).unwrap();
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    disturbance
}

/// Every interruption is followed by a check of everything committed; a cache that has become whole is compared, and the next
/// begins from nothing.
#[test]
fn interruptions_of_every_kind() {
    let wanted: u64 = std::env::var("INTERRUPTIONS").map_or(12, |text| text.parse().unwrap());
    let job = Job::new(60);
    let (layer, expected, mut random) = (layer(&job), job.expected(), Random(wanted));
    let (mut caches, mut last) = (0, 0);
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    for done in 0..wanted {
        let cache = format!("cache-{caches}");
        *counts.entry(disturb(&job, &layer, &cache, &mut random)).or_default() += 1;
        let now = job.assert_valid(&cache, &expected);
        assert!(now >= last, "interruption {done}: {last} samples were committed, now there are {now}");
        last = now;
        if now == expected.len() as u64 || done + 1 == wanted {
            finish(&job, &cache, &expected);
            (caches, last) = (caches + 1, 0);
        }
    }
    eprintln!("{wanted} interruptions {counts:?} of {caches} caches, all equal to the undisturbed one");
}

fn finish(job: &Job, cache: &str, expected: &Contents) {
    job.assert_completes(cache, expected);
    std::fs::remove_dir_all(job.cache(cache)).unwrap();
}
