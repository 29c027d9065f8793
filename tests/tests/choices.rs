//! The keys behind choices that the paper leaves open: each changes what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use distill::config::{Answers, RunConfig};
use distill::data::mixture::Caches;
use distill::data::source::Source;
use distill::data::teacher_sample::TeacherNeed;
use e2e::distilled::{distilled, is_same, metrics, weights};
use e2e::programs::run;
use e2e::rows::fixture;
use serde_json::Value;
use shared::models::{Processor, config_of};

/// One step of stage align that moves nothing: its losses, and the Recalibrator it began with.
fn aligned(out: &Path, sets: &[&str]) -> (Value, BTreeMap<String, Tensor>) {
    let still = ["align.steps=1", "align.lr=1e-30", "align.lr_end=1e-30"];
    let mut args = vec!["--stages", "align"];
    args.extend(still.iter().chain(sets).flat_map(|set| ["--set", set]));
    distilled(out, &args).unwrap();
    let row = metrics(out).unwrap().remove(0);
    (row, weights(&out.join("stages/align/recalibrator.safetensors")).unwrap())
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("no `{field}` in {row}"))
}

fn is_near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6 * b.abs().max(1.0)
}

/// The standard deviation of a matrix.
fn spread(tensor: &Tensor) -> f64 {
    let values: Vec<f64> = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn the_recalibrators_keys() {
    let dir = tempfile::tempdir().unwrap();
    let with = |name: &str, sets: &[&str]| aligned(&dir.path().join(name), sets);
    let (plain, weights_of_plain) = with("plain", &[]);
    let blocks = |weights: &BTreeMap<String, Tensor>| {
        let numbers = weights.keys().filter_map(|name| name.strip_prefix("blocks.")?.split('.').next());
        numbers.map(|number| number.parse::<usize>().unwrap() + 1).max().unwrap()
    };
    assert_eq!(blocks(&weights_of_plain), 2);
    assert_eq!(blocks(&with("depth", &["recalibrator.depth=1"]).1), 1);
    assert!((spread(&weights_of_plain["proj_pre.weight"]) / 0.02 - 1.0).abs() < 0.1);
    let wide = with("std", &["recalibrator.init_std=0.1"]).1;
    assert!((spread(&wide["proj_pre.weight"]) / 0.1 - 1.0).abs() < 0.1);
    assert!(with("bias", &["recalibrator.projection_bias=true"]).1.contains_key("proj_pre.bias"));
    assert!(!weights_of_plain.contains_key("proj_pre.bias"));
    let kept = with("positions", &["recalibrator.new_positions=false"]).0;
    assert_ne!(kept["kl"], plain["kl"], "positions do not matter");
    let rows = ["tokens", "student"].map(|rows| with(rows, &[&format!("recalibrator.answer={rows}")]).0);
    for (row, other) in rows.iter().zip([&plain, &rows[0]]) {
        assert_ne!(row["kl"], other["kl"], "the answer's rows do not matter");
    }
    let [of_tokens, of_student] = rows;
    assert_ne!(of_tokens["kl_regularisation"], plain["kl_regularisation"], "A2 sees tokens as well");
    assert_eq!(of_student["kl_regularisation"], plain["kl_regularisation"], "A2 has nothing of the student");
    let [pooled, pooled_tokens] = ["features", "tokens"].map(|rows| {
        let sets = ["loss.regularisation_question=pooled", &format!("recalibrator.answer={rows}")];
        with(&format!("pooled-{rows}"), &sets).0
    });
    assert_ne!(
        pooled_tokens["kl_regularisation"], pooled["kl_regularisation"],
        "beside a pooled question as well"
    );

    let student = fixture("internvl");
    let family = config_of(&student).unwrap().family;
    let copied = with("copy", &["recalibrator.init=copy"]).1;
    let theirs = weights(&student).unwrap();
    let last = "layers.1.self_attn.q_proj.weight";
    let (_, theirs) =
        theirs.iter().find(|(name, _)| family.canonical_name(name).ends_with(last)).expect("two blocks");
    let ours = &copied["blocks.1.self_attn.q_proj.weight"];
    assert!(is_same(ours, &theirs.to_dtype(DType::F32).unwrap()).unwrap(), "not the student's last block");
    assert!(!is_same(&weights_of_plain["blocks.1.self_attn.q_proj.weight"], ours).unwrap());

    let widths =
        |weights: &BTreeMap<String, Tensor>| weights.get("norm.weight").map(|norm| norm.dims().to_vec());
    let (teacher, own) = (weights_of_plain["proj_pre.weight"].dims()[1], ours.dims()[1]);
    assert_ne!(teacher, own);
    assert_eq!(widths(&weights_of_plain), Some(vec![teacher]));
    for (place, width) in [("before", Some(vec![own])), ("none", None)] {
        let (row, weights) = with(place, &[&format!("recalibrator.norm={place}")]);
        assert_eq!(widths(&weights), width, "{place}");
        assert_ne!(row["kl"], plain["kl"], "{place}");
    }
}

// "Assistant: There" of Idefics3's template begins with the token " There", and the teacher's answer with "There".
#[test]
fn a_templates_space_before_answers_leaves_them_aligned() {
    let dir = tempfile::tempdir().unwrap();
    let student = fixture("idefics3").display().to_string();
    let still = ["align.steps=1", "recalibrator.answer=student"];
    let mut args = vec!["--stages", "align", "--student", &student];
    args.extend(still.iter().flat_map(|set| ["--set", set]));
    distilled(dir.path(), &args).unwrap();
    assert!(number(&metrics(dir.path()).unwrap()[0], "ce_teacher") > 1.0, "no token is scored");
}

#[test]
fn the_losses_keys() {
    let dir = tempfile::tempdir().unwrap();
    let with = |name: &str, sets: &[&str]| aligned(&dir.path().join(name), sets).0;
    let plain = with("plain", &[]);
    let [ce, kl, ce_of_pass, kl_of_pass] =
        ["ce_teacher", "kl", "ce_regularisation", "kl_regularisation"].map(|field| number(&plain, field));
    assert!(is_near(number(&plain, "loss"), ce + kl + ce_of_pass + kl_of_pass));

    let weighted = with("weights", &["loss.ce_teacher=0.5", "loss.kl=2.0", "loss.regularisation=0.25"]);
    let expected = 0.5 * ce + 2.0 * kl + 0.25 * (0.5 * ce_of_pass + 2.0 * kl_of_pass);
    assert!(is_near(number(&weighted, "loss"), expected), "{weighted}");
    for (form, expected) in [("ce", ce + kl + ce_of_pass), ("kl", ce + kl + kl_of_pass)] {
        let row = with(form, &[&format!("loss.regulariser={form}")]);
        assert!(is_near(number(&row, "loss"), expected), "{form}: {row}");
        assert_ne!(row["grad_norm"], plain["grad_norm"], "{form}");
    }
    let row = with("mse", &["loss.regulariser=mse", "loss.regularisation=0.5"]);
    assert!(row["ce_regularisation"].is_null() && row["kl_regularisation"].is_null(), "{row}");
    let error = number(&row, "mse_regularisation");
    assert!(error > 0.0 && is_near(number(&row, "loss"), ce + kl + 0.5 * error), "{row}");
    let pooled = with("pooled", &["loss.regularisation_question=pooled"]);
    assert_eq!(pooled["kl"], plain["kl"]);
    assert_ne!(pooled["kl_regularisation"], plain["kl_regularisation"]);
    let without = with("without", &["align.regularisation=false"]);
    assert!(
        is_near(number(&without, "loss"), ce + kl) && without["ce_regularisation"].is_null(),
        "{without}"
    );

    let warm = with("temperature", &["loss.temperature=2.0"]);
    assert_eq!(warm["ce_teacher"], plain["ce_teacher"]);
    assert_ne!(warm["kl"], plain["kl"]);
    let boundary = with("boundary", &["loss.score_boundary=false"]);
    assert_ne!(boundary["ce_teacher"], plain["ce_teacher"]);

    // Half the digits of float32: near, and not the same.
    let half = with("half", &["dtype=bf16"]);
    let error = (number(&half, "loss") / number(&plain, "loss") - 1.0).abs();
    assert!(error > 0.0 && error < 0.05, "{error}");
}

#[test]
fn a_frozen_recalibrator_stays_as_stage_align_left_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    distilled(&out, &["--stages", "align,distill", "--set", "distill.freeze_recalibrator=true"]).unwrap();
    let [before, after] = ["align", "distill"]
        .map(|stage| weights(&out.join("stages").join(stage).join("recalibrator.safetensors")));
    let after = after.unwrap();
    for (name, tensor) in before.unwrap() {
        assert!(is_same(&tensor, &after[&name]).unwrap(), "`{name}` moved");
    }
}

#[test]
fn earlier_answers_are_learnt_or_part_of_the_question() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let text = |path: &Path| path.display().to_string();
    let mut args = vec!["run".to_owned(), "--device".into(), "cpu".into(), "--embed-images".into()];
    let paths = [
        ("--teacher", fixture("qwen2_vl")),
        ("--data", fixture("twin_step/data.json")),
        ("--image-root", fixture("images")),
        ("--out", cache.clone()),
    ];
    args.extend(paths.iter().flat_map(|(flag, path)| [(*flag).to_owned(), text(path)]));
    let finished = run("extract", args).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    // The fixture's fourth row has two answers, the others one; each as both models have it.
    let answers = |kind: Answers| -> Vec<(usize, usize)> {
        let mut config = RunConfig { cache: Some(cache.clone()), ..RunConfig::default() };
        config.data.answers = kind;
        config.eval.holdout = 0;
        let caches = Caches::open(&config).unwrap().map(Arc::new);
        let processor = Processor::load(&fixture("internvl")).unwrap();
        let source = Source::open(&config, processor, caches, &|_| {}).unwrap();
        let samples =
            (0..source.num_train()).map(|sample| source.sample(sample, TeacherNeed::Answers).unwrap());
        let mut ends: Vec<(usize, usize)> = Vec::new();
        for sample in samples {
            let ours = sample.student.prompt.turns.iter().filter(|turn| turn.answer.is_some()).count();
            let teacher = sample.teacher.as_ref().unwrap();
            assert_eq!(ours, teacher.answers.len());
            // The last answer is the one that stays: nothing but the template's end follows it.
            let last = teacher.answers.last().unwrap();
            ends.push((ours, teacher.input_ids.len() - last.end));
        }
        ends
    };
    let (all, last) = (answers(Answers::All), answers(Answers::Last));
    let counts = |ends: &[(usize, usize)]| {
        let mut counts: Vec<usize> = ends.iter().map(|(count, _)| *count).collect();
        counts.sort_unstable();
        counts
    };
    assert_eq!((counts(&all), counts(&last)), (vec![1, 1, 1, 1, 2], vec![1; 5]));
    let rests = |ends: &[(usize, usize)]| ends.iter().map(|(_, rest)| *rest).collect::<Vec<_>>();
    assert_eq!(rests(&all), rests(&last));
}

#[test]
fn fewer_samples_are_among_more_and_those_held_out_stay() {
    let places = |max_samples: usize| -> (Vec<String>, Vec<String>) {
        let mut config = RunConfig::default();
        config.data.sources = vec![fixture("twin_step/data.json").display().to_string()];
        config.data.image_root = Some(fixture("images"));
        config.data.max_samples = max_samples;
        config.eval.holdout = 1;
        let processor = Processor::load(&fixture("internvl")).unwrap();
        let source = Source::open(&config, processor, None, &|_| {}).unwrap();
        let of = |samples: std::ops::Range<usize>| samples.map(|sample| source.place(sample)).collect();
        (of(0..source.num_train()), of(source.held_out()))
    };
    let (all, held_out) = places(0);
    // The fixture has five rows.
    assert_eq!((all.len(), held_out.len()), (4, 1));
    for max_samples in 1..=6 {
        assert_eq!(places(max_samples), (all[..max_samples.min(4)].to_vec(), held_out.clone()));
    }
}
