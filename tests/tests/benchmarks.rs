//! `distill eval` on benchmarks in the files their authors publish: every question arrives with its pictures and options.
//!
//! tests/fixtures/make_benchmarks.py made the files with pandas' quoting and json; what is expected is what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use e2e::programs::run;
use e2e::rows::fixture;
use serde_json::{Value, json};

/// Evaluates a fixture; the summary and the predictions.
fn evaluate(file: &str, out: &Path) -> (Value, Vec<Value>) {
    let text = |path: &Path| path.display().to_string();
    let (model, data, out_text) =
        (text(&fixture("internvl")), text(&fixture("benchmarks").join(file)), text(out));
    let args =
        ["eval", "--device", "cpu", "--json", "--max-new-tokens", "3", "--model", &model, "--data", &data];
    let finished = run("distill", [args.as_slice(), &["--out", &out_text]].concat()).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let predictions = std::fs::read_to_string(out.join("predictions.jsonl")).unwrap();
    let lines = predictions.lines().map(|line| serde_json::from_str(line).unwrap());
    (serde_json::from_str(&finished.stdout).unwrap(), lines.collect())
}

/// (id, kind, question, reference) of every prediction.
fn asked(predictions: &[Value]) -> Vec<[Value; 4]> {
    let one = |row: &Value| ["id", "type", "question", "reference"].map(|field| row[field].clone());
    predictions.iter().map(one).collect()
}

const ANSWER: &str = "Answer with the letter of the right option.";

#[test]
fn mmbench_is_read_as_pandas_quotes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, predictions) = evaluate("mmbench.tsv", dir.path());
    let colours = |first: &str, second: &str| {
        format!("What colour is it?\nA. {first}\nB. {second}\nC. green\nD. grey\n{ANSWER}")
    };
    let quoted =
        format!("Tabs\tare hard.\nWhich word is \"quoted\"?\nLook twice.\nA. this\nB. that\n{ANSWER}");
    let expected = [
        [json!("241"), json!("attribute_recognition"), json!(colours("red", "blue")), json!("A")],
        [json!("252"), json!("ocr"), json!(quoted), json!("B")],
        [json!("1000241"), json!("attribute_recognition"), json!(colours("blue", "red")), json!("")],
    ];
    assert_eq!(asked(&predictions), expected);
    // The row without an answer is handed in, not graded.
    assert_eq!((&summary["questions"], &summary["submitted"]), (&json!(2), &json!(1)));
    assert_eq!(summary["quarantined"], 0);
    let [low, high] = [0, 1].map(|place| summary["interval"][place].as_f64().unwrap());
    let accuracy = summary["accuracy"].as_f64().unwrap();
    assert!(low <= accuracy && accuracy <= high, "{summary}");
    let submission = std::fs::read(dir.path().join("submission.json")).unwrap();
    let submission: Value = serde_json::from_slice(&submission).unwrap();
    assert_eq!(submission, json!({ "1000241": predictions[2]["prediction"] }));
}

#[test]
fn json_benchmarks_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, predictions) = evaluate("chartqa.json", &dir.path().join("chartqa"));
    assert_eq!(
        asked(&predictions),
        [[Value::Null, Value::Null, json!("What is the highest value?"), json!("46%")]]
    );
    assert!(predictions[0]["images"][0].as_str().unwrap().ends_with("png/chart_1.png"));
    assert_eq!(summary["questions"], 1);

    let out = dir.path().join("mm_vet");
    let (summary, predictions) = evaluate("mm_vet.json", &out);
    assert_eq!((&summary["questions"], &summary["submitted"]), (&json!(0), &json!(2)));
    assert!(summary["interval"].is_null());
    assert_eq!(predictions[0]["type"], "ocr+math");
    let submission: Value =
        serde_json::from_slice(&std::fs::read(out.join("submission.json")).unwrap()).unwrap();
    assert_eq!(
        submission,
        json!({ "v1_0": predictions[0]["prediction"], "v1_1": predictions[1]["prediction"] })
    );

    let (summary, predictions) = evaluate("vqa.json", &dir.path().join("vqa"));
    let expected = [
        [json!("17"), Value::Null, json!("Is it dark?"), json!("yes")],
        [json!("18"), Value::Null, json!("Which colour?"), json!("black")],
    ];
    assert_eq!(asked(&predictions), expected);
    assert_eq!(summary["questions"], 2);
}
