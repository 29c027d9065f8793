//! `distill run` from a cache that `extract run` made to a student, all stages: what moves, what stays, what is written.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use e2e::distilled::{NUM_SAMPLES, distill, distilled, extract, inputs, is_same, metrics, weights};
use e2e::programs::run;
use e2e::rows::{fixture, write_rows};
use shared::cache::CacheReader;
use shared::models::{Processor, Replacement, config_of, export_checkout};

/// The parts whose weights differ between two checkouts, and those in which some weight is the same.
fn parts(before: &BTreeMap<String, Tensor>, after: &BTreeMap<String, Tensor>) -> [BTreeSet<String>; 2] {
    let family = config_of(&fixture("internvl")).unwrap().family;
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let [mut moved, mut stayed] = [BTreeSet::new(), BTreeSet::new()];
    for (name, tensor) in before {
        let part = format!("{:?}", family.part_of(&family.canonical_name(name)));
        match is_same(tensor, &after[name]).unwrap() {
            true => stayed.insert(part),
            false => moved.insert(part),
        };
    }
    [moved, stayed]
}

fn names(parts: &[&str]) -> BTreeSet<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

/// As a float32 copy, which is what a stage leaves; every float type of a checkpoint fits in it exactly.
fn original() -> BTreeMap<String, Tensor> {
    let load = weights(&fixture("internvl")).unwrap();
    load.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(candle_core::DType::F32).unwrap())).collect()
}

#[test]
fn each_stage_moves_what_the_table_says_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let summary = distilled(&out, &[]).unwrap();
    assert_eq!(summary["steps"], 12);
    assert_eq!(summary["samples"], NUM_SAMPLES - 4);
    assert!(summary["peak_rss_bytes"].as_u64().unwrap() > 0);

    let stages = out.join("stages");
    assert!(!stages.join("align/student").exists(), "stage align leaves no student: it trains none");
    let aligned = weights(&stages.join("align/recalibrator.safetensors")).unwrap();
    let distilled_recalibrator = weights(&stages.join("distill/recalibrator.safetensors")).unwrap();
    for (name, tensor) in &aligned {
        assert!(
            !is_same(tensor, &distilled_recalibrator[name]).unwrap(),
            "`{name}` did not move in stage distill"
        );
    }
    let after_distill = weights(&stages.join("distill/student")).unwrap();
    assert_eq!(
        parts(&original(), &after_distill),
        [names(&["Body"]), names(&["Vision", "Projector", "Head"])]
    );
    let after_finetune = weights(&stages.join("finetune/student")).unwrap();
    let [moved, stayed] = parts(&after_distill, &after_finetune);
    assert_eq!([moved, stayed], [names(&["Projector", "Body", "Head"]), names(&["Vision"])]);

    // The result is a checkout: it loads, and its processor is the student's.
    let identity = |dir: &Path| Processor::load(dir).unwrap().identity();
    assert_eq!(identity(&out.join("student")), identity(&fixture("internvl")));
    let result = weights(&out.join("student")).unwrap();
    assert!(result.keys().eq(weights(&fixture("internvl")).unwrap().keys()));

    let rows = metrics(&out).unwrap();
    assert_eq!(rows.len(), 12);
    let stage_names: Vec<&str> = rows.iter().map(|row| row["stage"].as_str().unwrap()).collect();
    assert_eq!(stage_names, [["align"; 4].as_slice(), &["distill"; 5], &["finetune"; 3]].concat());
    for (index, row) in rows.iter().enumerate() {
        let (stage, is_number) = (stage_names[index], |field: &str| row[field].is_number());
        assert_eq!(row["step"], index + 1);
        assert!(
            ["loss", "lr", "grad_norm", "tokens_per_second", "loader_stall"].iter().all(|f| is_number(f)),
            "{row}"
        );
        assert_eq!(["ce_teacher", "kl"].map(is_number), [stage != "finetune"; 2], "{row}");
        assert_eq!(["ce_regularisation", "kl_regularisation"].map(is_number), [stage == "align"; 2], "{row}");
        assert_eq!(is_number("ce_student"), stage != "align", "{row}");
    }
    // Evaluations every 2 steps and at the end of each stage; controls only where there is a Recalibrator.
    let controlled: Vec<u64> = steps_with(&rows, "control_shuffled");
    assert_eq!(controlled, [2, 4, 6, 8, 9]);
    assert_eq!(steps_with(&rows, "control_zeroed"), controlled);
    assert_eq!(steps_with(&rows, "eval_ce_student"), [6, 8, 9, 11, 12]);
    assert!(out.join("events.out.tfevents.0.distill").exists());
    let report = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("Is the student used?"), "a run leaves its report");

    // The card of an export says whether the student was used, in the numbers of stage distill's last step.
    let [from, to] = [&out, &dir.path().join("exported")].map(|path| path.display().to_string());
    let exported = run("distill", ["export", &from, "--out", &to]).unwrap();
    assert_eq!(exported.code, Some(0), "{}", exported.stderr);
    let card = std::fs::read_to_string(Path::new(&to).join("README.md")).unwrap();
    let number = |field: &str| rows[8][field].as_f64().unwrap();
    let own = number("eval_ce_teacher") + number("eval_kl");
    let [shuffled, zeroed] = ["control_shuffled", "control_zeroed"].map(number);
    let line = format!("| distill | 9 | {own:.3} | {shuffled:.3} | {zeroed:.3} |");
    assert!(card.contains(&line) && card.contains("| teacher | `qwen2_vl` |"), "{line}:\n{card}");

    // The same command again does nothing.
    let again = distilled(&out, &[]).unwrap();
    assert_eq!(again, summary);
}

#[test]
fn one_usable_held_out_sample_is_said_and_has_no_other_to_exchange_with() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    // Of the four held-out samples one has at most 100 tokens.
    let keys = ["--stages", "distill", "--set", "data.max_length=100", "--set", "data.max_bad=1.0"];
    let finished = distill(&out, &keys).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stderr.contains("one held-out sample can be used"), "{}", finished.stderr);
    let rows = metrics(&out).unwrap();
    assert_eq!(steps_with(&rows, "control_shuffled"), [0; 0]);
    assert_eq!(steps_with(&rows, "control_zeroed"), [2, 4, 5]);
}

fn steps_with(rows: &[serde_json::Value], field: &str) -> Vec<u64> {
    rows.iter().filter(|row| row[field].is_number()).map(|row| row["step"].as_u64().unwrap()).collect()
}

#[test]
fn sft_trains_on_the_caches_samples_and_needs_no_features() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let summary = distilled(&out, &["--method", "sft"]).unwrap();
    assert_eq!(summary["steps"], 3);
    assert_eq!(summary["samples"], NUM_SAMPLES - 4);
    assert!(metrics(&out).unwrap().iter().all(|row| row["ce_student"].is_number() && row["kl"].is_null()));
}

/// A student whose embedding of the first byte of an emoji is no number, which only samples with one see: its head is not tied to it.
fn spoilt_student(dir: &Path) -> PathBuf {
    let base = fixture("qwen2_5_vl");
    let read = std::fs::read_to_string(base.join("tokenizer.json")).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_str(&read).unwrap();
    let row = tokenizer["model"]["vocab"]["ð"].as_u64().unwrap() as usize;
    let family = config_of(&base).unwrap().family;
    let stored = weights(&base).unwrap();
    let (name, embedding) = stored.iter().find(|(name, _)| name.ends_with("embed_tokens.weight")).unwrap();
    let width = embedding.dim(1).unwrap();
    let nan = Tensor::full(f32::NAN, (1, width), embedding.device()).unwrap();
    let embedding = embedding.to_dtype(candle_core::DType::F32).unwrap();
    let spoilt = embedding.slice_assign(&[row..row + 1, 0..width], &nan).unwrap();
    let replaced = [(family.canonical_name(name).into_owned(), Replacement::Weight(spoilt))];
    export_checkout(&base, dir, &BTreeMap::from(replaced), None).unwrap();
    dir.to_owned()
}

#[test]
fn a_sample_that_makes_an_update_infinite_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data.json");
    let said = ["Yes", "A party \u{1f389}, that is.", "No"];
    let row = |said| {
        let turns = [["human", "What is it?"], ["gpt", said]]
            .map(|[from, value]| serde_json::json!({"from": from, "value": value}));
        serde_json::json!({"conversations": turns})
    };
    let rows = said.map(row);
    write_rows(&data, &rows).unwrap();
    let cache = extract(&data, &dir.path().join("cache"), "answer").unwrap();
    let student = spoilt_student(&dir.path().join("student"));
    for method in ["sft", "genrecal", "kd"] {
        let out = dir.path().join(method);
        let mut args =
            ["run", "--device", "cpu", "--stages", "distill", "--method", method].map(str::to_owned).to_vec();
        for (flag, path) in [("--cache", &cache), ("--student", &student), ("--out", &out)] {
            args.extend([flag.to_owned(), path.display().to_string()]);
        }
        for set in ["distill.steps=1", "distill.batch_size=3", "eval.holdout=0"] {
            args.extend(["--set".to_owned(), set.to_owned()]);
        }
        let finished = run("distill", &args).unwrap();
        let reader = CacheReader::open(&cache).unwrap();
        let guilty =
            (0..reader.len()).find(|row| reader.meta(*row).unwrap().messages.contains('\u{1f389}')).unwrap();
        let named = format!("because of sample {}; no weight was changed", reader.key(guilty));
        assert_eq!(finished.code, Some(1), "{method}");
        assert!(finished.stderr.contains(&named), "{method}: {named}: {}", finished.stderr);
    }
}

#[test]
fn everything_can_train_on_data_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let data = inputs().unwrap().data.display().to_string();
    let student = fixture("qwen2_vl").display().to_string();
    let args =
        ["run", "--device", "cpu", "--json", "--stages", "finetune", "--student", &student, "--data", &data];
    let sets =
        ["finetune.steps=2", "eval.holdout=4", "finetune.train=[\"vision\",\"projector\",\"body\",\"head\"]"];
    let mut args: Vec<String> = args.map(str::to_owned).to_vec();
    args.extend(["--out".to_owned(), out.display().to_string()]);
    args.extend(sets.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
    let finished = e2e::programs::run("distill", &args).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let before = weights(&fixture("qwen2_vl")).unwrap();
    let after = weights(&out.join("stages/finetune/student")).unwrap();
    for (name, tensor) in &before {
        let before = tensor.to_dtype(candle_core::DType::F32).unwrap();
        assert!(!is_same(&before, &after[name]).unwrap(), "`{name}` did not move");
    }
}

#[test]
fn regularisation_asks_for_all_tokens_and_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let cache = extract(&inputs().unwrap().data, &dir.path().join("cache"), "answer").unwrap();
    let cache = cache.display().to_string();
    let out = dir.path().join("run");
    let mut args = e2e::distilled::arguments(&out, &["--stages", "align"]).unwrap();
    let place = args.iter().position(|arg| arg == "--cache").unwrap();
    args[place + 1] = cache;
    let finished = e2e::programs::run("distill", &args).unwrap();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("extract run --features all"), "{}", finished.stderr);
    assert!(finished.stderr.contains("align.regularisation=false"), "{}", finished.stderr);
    args.extend(["--set".to_owned(), "align.regularisation=false".to_owned()]);
    let other = dir.path().join("other").display().to_string();
    let place = args.iter().position(|arg| arg == "--out").unwrap();
    args[place + 1] = other;
    let finished = e2e::programs::run("distill", &args).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

/// A run's metrics without what depends on the machine.
fn computed(out: &Path) -> Vec<serde_json::Value> {
    let mut rows = metrics(out).unwrap();
    for row in rows.iter_mut().filter_map(serde_json::Value::as_object_mut) {
        for field in ["tokens_per_second", "peak_rss_bytes", "loader_stall"] {
            row.remove(field).unwrap();
        }
    }
    rows
}

#[test]
fn kept_student_features_change_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    // Ten steps of 4 samples: 16 train, so most come twice, and in other microbatches.
    let sets = ["--stages", "align", "--set", "align.steps=10"];
    let run = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let features = out.join("student_features");
        let args = [&sets[..], more].concat();
        let stop = ["--set", "checkpoint.stop_after_steps=7"];
        assert_eq!(distill(&out, &[&args[..], &stop].concat()).unwrap().code, Some(1));
        let kept = features.join("features.bin").exists();
        distilled(&out, &args).unwrap();
        assert!(!features.exists(), "no later stage reads them");
        // Killed before they were gone: the next call removes them.
        std::fs::remove_file(out.join("summary.json")).unwrap();
        std::fs::create_dir(&features).unwrap();
        distilled(&out, &args).unwrap();
        assert!(!features.exists());
        let recalibrator = weights(&out.join("stages/align/recalibrator.safetensors")).unwrap();
        (computed(&out), recalibrator, kept)
    };
    let (rows, recalibrator, kept) = run("auto", &[]);
    let (other_rows, other, other_kept) = run("never", &["--set", "align.keep_student_features=never"]);
    assert!(kept && !other_kept);
    assert_eq!(rows, other_rows);
    for (name, tensor) in &recalibrator {
        assert!(is_same(tensor, &other[name]).unwrap(), "`{name}` differs");
    }
}

#[test]
fn row_groups_are_an_order_of_their_own_that_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ["--stages", "finetune", "--set", "finetune.steps=6", "--set", "data.groups_at_once=1"];
    let run = |name: &str, more: &[&str]| distilled(&dir.path().join(name), &[&keys[..], more].concat());
    run("whole", &["--set", "data.workers=1"]).unwrap();
    let whole = computed(&dir.path().join("whole"));
    let stopped = run("parts", &["--set", "checkpoint.stop_after_steps=3"]).unwrap_err().to_string();
    assert!(stopped.contains("stopped"), "{stopped}");
    run("parts", &["--set", "data.workers=3"]).unwrap();
    assert_eq!(computed(&dir.path().join("parts")), whole);
    distilled(&dir.path().join("plain"), &keys[..4]).unwrap();
    assert_ne!(computed(&dir.path().join("plain")), whole);
    let refused = ["run", "--student", "s", "--out", "o", "--stages", "finetune", "--data", "d"];
    let refused = [&refused[..], &["--set", "data.groups_at_once=1"]].concat();
    let refused = e2e::programs::run("distill", refused).unwrap();
    assert!(
        refused.code == Some(2) && refused.stderr.contains("`data.groups_at_once`"),
        "{}",
        refused.stderr
    );
}

#[test]
fn buckets_do_not_depend_on_workers() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, workers: &str| {
        let out = dir.path().join(name);
        let workers = format!("data.workers={workers}");
        let sets =
            ["--stages", "finetune", "--set", "data.bucket_steps=2", "--set", "finetune.steps=5", "--set"];
        distilled(&out, &[&sets[..], &[&workers]].concat()).unwrap();
        computed(&out)
    };
    let (one, four) = (run("one", "1"), run("four", "4"));
    assert_eq!(one, four);
    let plain = dir.path().join("plain");
    distilled(&plain, &["--stages", "finetune", "--set", "finetune.steps=5"]).unwrap();
    assert_ne!(one, computed(&plain));
}
