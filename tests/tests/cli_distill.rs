//! What `distill` says when it is used wrongly or given what it cannot use: one message with a hint, and the exit code.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;

use e2e::distilled::{arguments, distilled, inputs, metrics};
use e2e::programs::{Finished, run};
use e2e::rows::{fixture, question, write_rows};
use serde_json::Value;
use shared::cache::{CacheIdentity, CacheReader, CacheWriter, Row, WriterOptions};

fn refused(args: &[&str], code: i32, needles: &[&str]) -> Finished {
    let finished = run("distill", args).unwrap();
    assert_eq!(finished.code, Some(code), "{args:?}\n{}", finished.stderr);
    if args.contains(&"--json") {
        let told: Value = serde_json::from_str(&finished.stdout).unwrap();
        assert!(finished.stderr.contains(told["error"].as_str().unwrap()), "{told}");
        assert!(told["hints"].as_array().is_some_and(|hints| !hints.is_empty()), "{told}");
    } else {
        assert!(finished.stdout.is_empty(), "{}", finished.stdout);
    }
    for needle in needles {
        assert!(finished.stderr.contains(needle), "`{needle}` is not in:\n{}", finished.stderr);
    }
    finished
}

/// The rows of a dataset.
fn parsed(rows: &Path) -> Vec<Value> {
    fs::read_to_string(rows).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn wrong_use_ends_with_2_and_says_how() {
    refused(&["run"], 2, &["--student DIR"]);
    refused(&["run", "--nonsense"], 2, &["--nonsense"]);
    refused(&["run", "--json", "--nonsense"], 2, &["--nonsense"]);
    refused(&["run", "--student", "s", "--out", "o"], 2, &["stage align", "--cache CACHE", "hint:"]);
    let base = ["run", "--student", "s", "--out", "o", "--cache", "c"];
    let with = |more: &[&'static str]| [base.as_slice(), more].concat();
    refused(&with(&["--set", "align.lrr=1"]), 2, &["lrr", "hint:"]);
    refused(&with(&["--set", "align.lr"]), 2, &["align.lr", "="]);
    refused(&with(&["--method", "sft", "--stages", "align"]), 2, &["sft", "finetune"]);
    refused(&with(&["--set", "align.train=[\"body\"]"]), 2, &["align.train"]);
    let missing = refused(&with(&["--config", "/no/such/file.toml"]), 1, &["/no/such/file.toml"]);
    assert_eq!(missing.stderr.matches("os error 2").count(), 1, "said once:\n{}", missing.stderr);
    refused(&with(&["--json", "--set", "align.lr_end=nan"]), 2, &["`align.lr_end`", "NaN"]);
    refused(&with(&["--device", "xyz"]), 2, &["`xyz`: not a device", "cuda:N"]);
    refused(&["eval", "--model", "m", "--data", "d", "--device", "xyz"], 2, &["`xyz`: not a device"]);
    refused(&with(&["--set", "eval.holdout=1"]), 2, &["`eval.holdout` is 1", "hint:"]);
    refused(&["eval"], 2, &["--model DIR"]);
    refused(&["eval", "--model", "m"], 2, &["--data SRC"]);
    refused(&["export", "r"], 2, &["--out DIR"]);
    refused(&["export", "--json", "r", "--out", "o", "--set", "steps=1"], 2, &["`steps`", "`step`"]);
    refused(&["report", "--set", "title=x"], 2, &["nothing to report"]);
}

#[test]
fn every_command_takes_its_keys_from_a_file_and_from_set() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (out, data) = (path("run"), inputs().unwrap().data.display().to_string());
    distilled(&dir.path().join("run"), &["--stages", "finetune"]).unwrap();
    let told = |args: &[&str]| -> Value {
        let finished = run("distill", args).unwrap();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        serde_json::from_str(&finished.stdout).unwrap()
    };
    let keys = path("eval.toml");
    let text = format!("model = '{out}'\ndata = ['{data}']\nlimit = 9\nmax_new_tokens = 2\ndevice = 'cpu'\n");
    fs::write(&keys, text).unwrap();
    // The flag over `--set` over the file.
    let summary = told(&["eval", "--json", "--config", &keys, "--set", "limit=4", "--limit", "1"]);
    assert_eq!(summary["questions"], 1, "{summary}");
    let student = path("student");
    let exported =
        told(&["export", &out, "--json", "--set", &format!("out={student}"), "--set", "dtype=bf16"]);
    assert_eq!(exported["model"], student.as_str());
    let set = format!("runs=['{out}']");
    let report =
        told(&["report", "--json", "--set", &set, "--set", "title=Two words", "--out", &path("r.html")]);
    assert_eq!(report["accuracies"].as_array().unwrap().len(), 1, "the evaluation in the run is found");
    assert!(fs::read_to_string(path("r.html")).unwrap().contains("<h1>Two words</h1>"));
}

#[test]
fn a_folder_that_is_no_run_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    for own in ["config.toml", "student"] {
        let out = dir.path().join(format!("with {own}"));
        fs::create_dir(&out).unwrap();
        fs::write(out.join(own), "mine").unwrap();
        let args = arguments(&out, &["--stages", "finetune"]).unwrap();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(&args, 1, &["is no run", own, "hint: choose another --out"]);
        assert_eq!(fs::read_to_string(out.join(own)).unwrap(), "mine");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "nothing is written");
    }
}

#[test]
fn a_step_whose_only_sample_cannot_be_used_counts_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rows = inputs().unwrap().data.clone();
    let mut lines = parsed(&rows);
    let image = lines[0]["image"].as_str().unwrap().to_owned();
    lines.push(question("long", &image, "What is it?", &"a long word ".repeat(2000)));
    let data = dir.path().join("rows.jsonl");
    write_rows(&data, &lines).unwrap();
    let strings = [
        ("--student", fixture("internvl").display().to_string()),
        ("--data", data.display().to_string()),
        ("--image-root", rows.parent().unwrap().display().to_string()),
    ];
    let train = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let place = out.display().to_string();
        let mut args = vec!["run", "--json", "--stages", "finetune", "--device", "cpu", "--out", &place];
        args.extend(["--set", "finetune.batch_size=1"]);
        args.extend(strings.iter().flat_map(|(flag, value)| [*flag, value.as_str()]));
        let finished = run("distill", [args.as_slice(), more].concat()).unwrap();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let skipped = fs::read_to_string(out.join("skipped.jsonl")).unwrap();
        assert!(skipped.lines().count() == 1 && skipped.contains("`data.max_length`"), "{skipped}");
        (metrics(&out).unwrap(), finished.stderr)
    };
    let (steps, _) = train("all", &["--set", "eval.holdout=0"]);
    assert_eq!(steps.len(), lines.len());
    let empty: Vec<&Value> = steps.iter().filter(|row| row["ce_student"].is_null()).collect();
    assert!(empty.len() == 1 && empty[0]["loss"] == 0.0 && empty[0]["grad_norm"] == 0.0, "{empty:?}");
    // All samples but one are held out: wherever the long one is, it is named.
    let holdout = format!("eval.holdout={}", lines.len() - 1);
    let (_, told) = train("held out", &["--set", &holdout]);
    assert!(told.contains("left out"), "{told}");
}

/// A cache that holds what `extract run` would have set aside: a teacher's value that is no number.
#[test]
fn a_feature_that_is_no_number_is_named_by_shard_and_row() {
    let dir = tempfile::tempdir().unwrap();
    let reader = CacheReader::open(&inputs().unwrap().cache).unwrap();
    let mut rows: Vec<Row> = (0..reader.len()).map(|sample| reader.row(sample).unwrap()).collect();
    for row in &mut rows {
        row.features.bytes = f32::NAN.to_le_bytes().repeat(row.features.bytes.len() / 4);
    }
    let cache = dir.path().join("cache");
    let identity = CacheIdentity::of(&reader).unwrap();
    let mut writer = CacheWriter::open(&cache, identity, WriterOptions::default()).unwrap();
    writer.append_batch(rows).unwrap();
    writer.finish().unwrap();
    let (out, cache) = (dir.path().join("run"), cache.display().to_string());
    let mut args = arguments(&out, &["--stages", "distill", "--set", "data.max_bad=0"]).unwrap();
    let place = args.iter().position(|arg| *arg == "--cache").unwrap() + 1;
    args[place] = cache;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    refused(&args, 1, &["train-00000", "row ", "is not finite", "hint: `extract verify`"]);
}

#[test]
fn help_has_examples_and_completions_are_printed() {
    let help = run("distill", ["run", "--help"]).unwrap();
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Examples:") && help.stdout.contains("--cache CACHE"), "{}", help.stdout);
    assert!(
        help.stdout.contains("[finetune]") && help.stdout.contains("lr_end = 0.00001"),
        "{}",
        help.stdout
    );
    let script = run("distill", ["completions", "bash"]).unwrap();
    assert_eq!(script.code, Some(0));
    assert!(script.stdout.contains("distill"), "{}", script.stdout);
}

#[test]
fn what_cannot_be_read_is_named_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (student, data) =
        (fixture("internvl").display().to_string(), inputs().unwrap().data.display().to_string());
    let out = path("run");
    let finetune = ["run", "--stages", "finetune", "--out", &out, "--device", "cpu"];
    let with = |more: &[&str]| finetune.iter().chain(more).map(ToString::to_string).collect::<Vec<_>>();
    let check = |more: &[&str], needles: &[&str]| {
        let args = with(more);
        let finished = refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), 1, needles);
        // What to do comes last, and the system's own words not again behind it.
        let hint = finished.stderr.trim_end().lines().last().unwrap();
        assert!(hint.starts_with("hint: ") && !hint.contains("os error"), "{}", finished.stderr);
    };
    check(&["--student", "/no/such/student", "--data", &data], &["/no/such/student"]);
    check(&["--student", &student, "--data", "/no/such/data.json"], &["/no/such/data.json"]);
    let cache = ["--student", &student, "--cache", "/no/such/cache"];
    check(&cache, &["/no/such/cache"]);
    let no_gpu = ["--student", &student, "--data", &data, "--device", "cuda:99"];
    check(&no_gpu, &["cuda:99"]);
    fs::write(path("unknown.json"), "not json").unwrap();
    check(&["--student", &student, "--data", &path("unknown.json")], &["unknown.json"]);
}

#[test]
fn a_cache_without_its_images_asks_for_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut args = arguments(&out, &[]).unwrap();
    let place = args.iter().position(|arg| arg == "--data").unwrap();
    args.drain(place..place + 2);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    refused(&args, 1, &["neither in the cache nor in the data", "sample ", "--image-root"]);
}

#[test]
fn bad_rows_are_listed_and_stop_the_run_once_they_are_too_many() {
    let dir = tempfile::tempdir().unwrap();
    let rows = inputs().unwrap().data.clone();
    let mut lines = parsed(&rows);
    lines.push(question("gone", "no-such-image.png", "What is it?", "Nothing."));
    let data = dir.path().join("rows.jsonl");
    write_rows(&data, &lines).unwrap();
    let out = dir.path().join("run");
    let strings = [
        ("--student", fixture("internvl").display().to_string()),
        ("--data", data.display().to_string()),
        ("--image-root", rows.parent().unwrap().display().to_string()),
        ("--out", out.display().to_string()),
    ];
    let mut args =
        vec!["run", "--json", "--stages", "finetune", "--device", "cpu", "--set", "finetune.steps=2"];
    args.extend(["--set", "eval.holdout=4"]);
    args.extend(strings.iter().flat_map(|(flag, value)| [*flag, value.as_str()]));
    let strict = [args.as_slice(), &["--set", "data.max_bad=0"]].concat();
    refused(&strict, 1, &["no-such-image.png", "row 20", "data.max_bad"]);
    let lenient = [args.as_slice(), &["--set", "data.max_bad=0.1"]].concat();
    let finished = run("distill", &lenient).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("no-such-image.png"), "{}", finished.stderr);
    let listed = fs::read_to_string(out.join("skipped.jsonl")).unwrap();
    assert!(listed.lines().count() == 1 && listed.contains("no-such-image.png"), "{listed}");
}
