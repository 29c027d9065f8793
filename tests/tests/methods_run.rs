//! `distill run --method ...` on one cache: what trains, what is written, what is refused, and that runs compare.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use e2e::distilled::{arguments, distill, distilled, metrics, weights};
use e2e::programs::run;
use e2e::rows::fixture;
use serde_json::Value;
use shared::models::{ModelPart, Replacement, config_of, export_checkout};

/// One stage of two steps, a checkpoint after the first, and no loss but the method's.
const ALONE: [&str; 8] = [
    "--stages",
    "distill",
    "--set",
    "distill.steps=2",
    "--set",
    "checkpoint.every=1",
    "--set",
    "loss.ce_student=0.0",
];

/// Weights that have a gradient after the first step, by name; all of them must.
fn with_gradient(out: &Path) -> BTreeSet<String> {
    let moments = weights(&out.join("checkpoints/step-1/optimizer.safetensors")).unwrap();
    let first = moments.iter().filter_map(|(name, moment)| Some((name.strip_prefix("m.")?, moment)));
    let mut names = BTreeSet::new();
    for (name, moment) in first {
        let norm: f32 = moment.sqr().unwrap().sum_all().unwrap().to_scalar().unwrap();
        assert!(norm > 0.0, "`{name}` has no gradient");
        names.insert(name.to_owned());
    }
    names
}

/// The names of the student's body in a run.
fn body(student: &Path) -> BTreeSet<String> {
    let family = config_of(student).unwrap().family;
    let names = weights(student).unwrap().into_keys().map(|name| family.canonical_name(&name).into_owned());
    let body = names.filter(|name| family.part_of(name) == ModelPart::Body);
    body.map(|name| format!("student.{name}")).collect()
}

fn terms(row: &Value) -> Vec<&str> {
    row["method_terms"].as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn a_method_of_any_pair_trains_the_body_and_reports_its_terms() {
    let dir = tempfile::tempdir().unwrap();
    let own = ["query", "s2t", "t2s"].map(|name| format!("dskd.{name}.weight"));
    let cases: [(&str, &[&str], &[String]); 4] = [
        ("uld", &["uld"], &[]),
        ("multilevel_ot", &["holistic_difference", "sequential_logarithm", "sinkhorn"], &[]),
        ("alm", &["alm"], &[]),
        ("dskd", &["dskd_projection_ce", "dskd_student_kl", "dskd_teacher_kl"], &own),
    ];
    for (method, names, own) in cases {
        let out = dir.path().join(method);
        distilled(&out, &[["--method", method].as_slice(), &ALONE].concat()).unwrap();
        let rows = metrics(&out).unwrap();
        for row in &rows {
            assert_eq!(terms(row), names, "{method}");
            assert!(row["method"].as_f64().unwrap() > 0.0 && row["loss"] == row["method"], "{method}: {row}");
            assert!(row["kl"].is_null() && row["ce_student"].is_number(), "{method}: {row}");
        }
        assert!(rows[1]["eval_method"].is_number() && rows[1]["control_shuffled"].is_null(), "{method}");
        let expected = body(&fixture("internvl")).into_iter().chain(own.iter().cloned()).collect();
        assert_eq!(with_gradient(&out), expected, "{method}");
    }
}

/// A student of the teacher's tokenizer with other weights than the teacher.
fn moved_teacher(dir: &Path) -> PathBuf {
    let base = fixture("qwen2_vl");
    let family = config_of(&base).unwrap().family;
    let moved = |(name, tensor): (String, Tensor)| {
        let wide = tensor.to_dtype(DType::F32).unwrap();
        let moved = (&wide + (wide.sin().unwrap() * 0.3).unwrap()).unwrap();
        (family.canonical_name(&name).into_owned(), Replacement::Weight(moved))
    };
    let out = dir.join("student");
    export_checkout(&base, &out, &weights(&base).unwrap().into_iter().map(moved).collect(), None).unwrap();
    out
}

#[test]
fn kd_serves_one_vocabulary_and_refuses_two() {
    let dir = tempfile::tempdir().unwrap();
    let student = moved_teacher(dir.path());
    let with = |out: &str, more: &[&str]| {
        let args = [["--method", "kd"].as_slice(), &ALONE, more].concat();
        arguments(&dir.path().join(out), &args).unwrap()
    };
    for (name, sets) in
        [("forward", ["kd.divergence=forward", "kd.top_k=0"]), ("jsd", ["kd.divergence=jsd", "kd.top_k=5"])]
    {
        let mut args = with(name, &["--set", sets[0], "--set", sets[1]]);
        let place = args.iter().position(|arg| arg == "--student").unwrap();
        args[place + 1] = student.display().to_string();
        let finished = run("distill", &args).unwrap();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        let out = dir.path().join(name);
        assert_eq!(terms(&metrics(&out).unwrap()[0]), ["kd"]);
        assert_eq!(with_gradient(&out), body(&student), "{name}");
    }
    let finished = run("distill", with("refused", &[])).unwrap();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("different tokenizers"), "{}", finished.stderr);
    assert!(finished.stderr.contains("hint: --method genrecal"), "{}", finished.stderr);
    assert!(!dir.path().join("refused/metrics.jsonl").exists(), "a step was made");
}

#[test]
fn methods_see_the_same_samples_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    // With a rate of 0 in all but name the student stays, so that its cross entropy tells the samples.
    let keys = ["--set", "distill.lr=1e-30", "--set", "distill.lr_end=1e-30"];
    let losses = |method: &str, stages: &str| -> Vec<(Value, f64)> {
        let out = dir.path().join(method);
        let more = [["--method", method, "--stages", stages].as_slice(), &keys].concat();
        distilled(&out, &more).unwrap();
        let rows = metrics(&out).unwrap().into_iter().filter(|row| row["stage"] != "align");
        rows.map(|row| (row["stage"].clone(), row["ce_student"].as_f64().unwrap())).collect()
    };
    let expected = losses("genrecal", "align,distill,finetune");
    assert_eq!(expected.len(), 5 + 3);
    for method in ["uld", "sft"] {
        // Microbatches may be cut elsewhere, which moves the last bits of a sum.
        for (got, expected) in losses(method, "distill,finetune").iter().zip(&expected).take(6) {
            assert!(
                got.0 == expected.0 && (got.1 - expected.1).abs() < 1e-9,
                "{method}: {got:?}, {expected:?}"
            );
        }
    }
}

#[test]
fn a_stopped_run_with_weights_of_its_own_ends_as_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ["--method", "dskd", "--set", "distill.steps=3", "--set", "finetune.steps=1"];
    let whole = dir.path().join("whole");
    distilled(&whole, &keys).unwrap();
    let stopped = dir.path().join("stopped");
    let stop = [keys.as_slice(), &["--set", "checkpoint.stop_after_steps=1"]].concat();
    assert_eq!(distill(&stopped, &stop).unwrap().code, Some(1));
    assert_eq!(distilled(&stopped, &keys).unwrap()["resumed_from"], 1);
    let outcome = |out: &Path| {
        let losses: Vec<Value> = metrics(out).unwrap().into_iter().map(|row| row["loss"].clone()).collect();
        (losses, std::fs::read(out.join("stages/distill/student/model.safetensors")).unwrap())
    };
    assert!(outcome(&stopped) == outcome(&whole));
}

#[test]
fn extract_pair_names_the_methods_that_distill_has() {
    use clap::ValueEnum;
    use distill::config::{Method, RunConfig};
    let fixture = |name: &str| e2e::rows::fixture(name).display().to_string();
    let pair = |teacher: &str, student: &str| {
        let args = ["pair", "--json", "--teacher", &fixture(teacher), "--student", &fixture(student)];
        let finished = e2e::programs::run("extract", args).unwrap();
        let pair: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
        let usable = pair["methods"].as_array().unwrap().iter();
        usable
            .map(|row| (row["method"].as_str().unwrap().to_owned(), row["usable"].as_bool().unwrap()))
            .collect::<Vec<_>>()
    };
    let (same, other) = (pair("qwen2_vl", "qwen2_vl"), pair("qwen2_vl", "internvl"));
    let names: Vec<_> = same.iter().map(|(method, _)| method.as_str()).collect();
    assert_eq!(names, Method::value_variants().iter().map(|method| method.as_str()).collect::<Vec<_>>());
    let dir = e2e::rows::fixture("qwen2_vl");
    let load = shared::models::LoadOptions::frozen(candle_core::Device::Cpu, candle_core::DType::F32);
    let model = shared::models::load(&dir, &load).unwrap();
    for ((method, with_one), (_, with_two)) in same.iter().zip(&other) {
        let config = RunConfig { method: Method::from_str(method, false).unwrap(), ..RunConfig::default() };
        let opened = distill::methods::open(&config, &model, 16).unwrap();
        let needs_one = opened.is_some_and(|opened| opened.needs_one_vocabulary());
        assert_eq!((*with_one, *with_two), (true, !needs_one), "{method}");
    }
}
