//! Generation beside transformers, and `extract answers` from rows to rows.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use e2e::generation::{defaults, equal_answers, golden};
use e2e::programs::{Finished, run};
use e2e::reference::samples;
use e2e::rows::{altered_checkpoint, contents, fixture, made_up, write_rows};
use serde_json::{Value, json};
use shared::models::{Encoded, Generation, LoadOptions, Sampling, generate, load, penalise};

fn generation_json() -> PathBuf {
    fixture("generation.json")
}

#[test]
fn greedy_answers_equal_those_of_transformers_under_its_settings() {
    let golden = golden(&generation_json()).unwrap();
    for (name, expected) in &golden.greedy {
        let equal = equal_answers(&fixture(name), expected, golden.limit).unwrap();
        assert_eq!(equal, expected.len(), "{name}");
    }
    let lengths: Vec<usize> = golden.greedy.values().flatten().map(|row| row.tokens.len()).collect();
    assert!(lengths.contains(&golden.limit) && lengths.iter().any(|length| *length < golden.limit));
}

#[test]
fn probabilities_are_those_of_transformers_logits_processors() {
    for case in golden(&generation_json()).unwrap().warped {
        let defaults = defaults(&case.config).unwrap();
        let mut scores = case.scores.clone();
        penalise(&mut scores, &case.seen, defaults.repetition_penalty as f32);
        let mut ours = vec![0.0; scores.len()];
        for (token, probability) in defaults.sampling.candidates(&scores) {
            ours[token as usize] = probability;
        }
        let worst = ours.iter().zip(&case.probabilities).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // float32 scores on both sides.
        assert!(worst < 1e-5, "{}: {worst}", case.config);
    }
}

#[test]
fn what_is_drawn_follows_from_the_seed_and_not_from_the_batch() {
    let options = LoadOptions::frozen(Device::Cpu, DType::F32);
    let model = load(&fixture("qwen2_vl"), &options).unwrap();
    let encoded: Vec<Encoded> =
        samples(&fixture("qwen2_vl")).unwrap().iter().map(|it| it.stored_inputs(&model).unwrap()).collect();
    let all: Vec<&Encoded> = encoded.iter().collect();
    let sampling = Some(Sampling { temperature: 1.5, top_k: 0, top_p: 0.95 });
    let generation = Generation { max_new_tokens: 10, eos: &[], repetition_penalty: 1.1, sampling };
    let seeds: Vec<u64> = (0..all.len() as u64).collect();
    let together = generate(&model, &all, &seeds, &generation).unwrap();
    for (at, question) in all.iter().enumerate() {
        let alone = generate(&model, &[question], &seeds[at..=at], &generation).unwrap();
        assert_eq!(alone[0], together[at], "sample {at}");
    }
    let others: Vec<u64> = seeds.iter().map(|seed| seed + 100).collect();
    assert_ne!(generate(&model, &all, &others, &generation).unwrap(), together);
    assert!(together.iter().all(|answer| !answer.is_complete), "nothing ends an answer here");
}

struct Place {
    dir: tempfile::TempDir,
    teacher: PathBuf,
}

impl Place {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn answers(&self, out: &str, more: &[&str]) -> Finished {
        let (teacher, data, out) = (self.teacher.to_str().unwrap(), self.path("rows.jsonl"), self.path(out));
        let args =
            ["answers", "--teacher", teacher, "--data", &data, "--out", &out, "--device", "cpu", "--json"];
        run("extract", args.iter().chain(more)).unwrap()
    }

    fn rows(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The toy's teacher answers questions about the toy's pictures rightly; here it is asked about others, and a reference
/// that quotes what it says stands for agreement.
fn place() -> Place {
    let place = Place { dir: tempfile::tempdir().unwrap(), teacher: fixture("../../datasets/toy/teacher") };
    made_up(place.dir.path(), 6).unwrap();
    place
}

#[test]
fn responses_that_agree_take_the_place_of_the_answer_and_say_so() {
    let place = place();
    let finished = place.answers("first.jsonl", &["--tries", "1", "--max-new-tokens", "24"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let first = place.rows("first.jsonl");
    assert_eq!(first.len(), 6);
    // Rows whose reference is what the teacher says, and one whose reference is not.
    let said = |row: &Value| row["provenance"]["turns"][0]["response"].as_str().unwrap().to_owned();
    let mut rows: Vec<Value> = fs::read_to_string(place.path("rows.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (row, answered) in rows.iter_mut().zip(&first).skip(1) {
        row["conversations"][1]["value"] = json!(said(answered).to_uppercase());
    }
    write_rows(Path::new(&place.path("rows.jsonl")), &rows).unwrap();
    let finished =
        place.answers("second.jsonl", &["--tries", "2", "--max-new-tokens", "24", "--metric", "exact"]);
    let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(
        (&summary["rows"], &summary["replaced"], &summary["original"]),
        (&json!(6), &json!(5), &json!(1))
    );
    for ((row, given), answered) in place.rows("second.jsonl").iter().zip(&rows).zip(&first) {
        let turn = &row["provenance"]["turns"][0];
        let is_teacher = turn["answer"] == "teacher";
        assert_eq!(row["id"], given["id"]);
        assert_eq!(turn["reference"], given["conversations"][1]["value"].as_str().unwrap().trim());
        let expected =
            if is_teacher { json!(said(answered)) } else { given["conversations"][1]["value"].clone() };
        assert_eq!(row["conversations"][1]["value"], expected);
        assert_eq!(turn["tries"], if is_teacher { 1 } else { 2 });
        assert_eq!(turn["hit_limit"], false);
    }
    // What was written is a dataset, with its images.
    let cache = place.path("cache");
    let (teacher, data) = (place.teacher.to_str().unwrap(), place.path("second.jsonl"));
    let args = ["run", "--teacher", teacher, "--data", &data, "--out", &cache, "--device", "cpu"];
    let finished = run("extract", args).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let read = contents(Path::new(&cache)).unwrap();
    assert_eq!(read.len(), 6);
    assert!(read.values().all(|(meta, _)| meta.images.len() == 1));
}

#[test]
fn a_response_at_the_limit_is_marked_and_never_kept() {
    let place = place();
    let finished =
        place.answers("out.jsonl", &["--tries", "1", "--max-new-tokens", "1", "--metric", "contains"]);
    let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&summary["replaced"], &summary["at_limit"]), (&json!(0), &json!(6)), "{}", finished.stderr);
    assert!(place.rows("out.jsonl").iter().all(|row| row["provenance"]["turns"][0]["hit_limit"] == true));
}

#[test]
fn a_torn_file_goes_on_to_the_same_bytes_and_a_foreign_one_is_refused() {
    let place = place();
    let settings = ["--tries", "2", "--max-new-tokens", "8", "--sample", "always", "--temperature", "1.3"];
    assert_eq!(place.answers("whole.jsonl", &settings).code, Some(0));
    let whole = fs::read(place.path("whole.jsonl")).unwrap();
    // As a kill leaves it: two whole rows and the beginning of a third.
    let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').collect();
    fs::write(place.path("torn.jsonl.part"), &whole[..ends[1] + 40]).unwrap();
    let finished = place.answers("torn.jsonl", &settings);
    let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&summary["resumed_from"], &summary["rows"]), (&json!(2), &json!(6)), "{}", finished.stderr);
    assert!(
        fs::read(place.path("torn.jsonl")).unwrap() == whole
            && !Path::new(&place.path("torn.jsonl.part")).exists()
    );
    let again = place.answers("torn.jsonl", &settings);
    assert_eq!(
        serde_json::from_str::<Value>(&again.stdout).unwrap()["generated_tokens"],
        0,
        "nothing is left to do"
    );
    let other = place.answers("torn.jsonl", &["--tries", "3"]);
    assert_eq!(other.code, Some(1));
    assert!(
        other.stderr.contains("is of another run") && other.stderr.contains("hint: "),
        "{}",
        other.stderr
    );
}

#[test]
fn a_second_writer_is_refused() {
    let place = place();
    let other = fs::File::create(place.path("out.jsonl.part")).unwrap();
    other.lock().unwrap();
    let refused = place.answers("out.jsonl", &["--max-new-tokens", "2"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("is being written by another process\nhint: "), "{}", refused.stderr);
    drop(other);
    assert_eq!(place.answers("out.jsonl", &["--max-new-tokens", "2"]).code, Some(0));
    assert_eq!(place.rows("out.jsonl").len(), 6);
}

#[test]
fn generation_that_is_not_implemented_is_refused_before_any_work() {
    let mut place = place();
    let beams = |_| json!({"num_beams": 4}).to_string().into_bytes();
    let copy = place.dir.path().join("teacher");
    altered_checkpoint("../../datasets/toy/teacher", &copy, "generation_config.json", beams).unwrap();
    place.teacher = copy;
    let finished = place.answers("out.jsonl", &[]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("`num_beams` = 4 is not supported"), "{}", finished.stderr);
    assert!(!Path::new(&place.path("out.jsonl.part")).exists());
}
