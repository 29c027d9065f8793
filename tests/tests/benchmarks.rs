//! `distill eval` on benchmarks in the files their authors publish: every question arrives with its pictures and options.
//!
//! tests/fixtures/make_benchmarks.py made the files with pandas' quoting and json; what is expected is what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use e2e::damage::copy_of;
use e2e::programs::run;
use e2e::rows::fixture;
use serde_json::{Value, json};

/// Evaluates a fixture; the summary and the predictions.
fn evaluate(file: &str, out: &Path) -> (Value, Vec<Value>) {
    evaluate_model(&fixture("internvl"), "3", file, out)
}

fn evaluate_model(model: &Path, max_new_tokens: &str, file: &str, out: &Path) -> (Value, Vec<Value>) {
    let text = |path: &Path| path.display().to_string();
    let (model, data, out_text) = (text(model), text(&fixture("benchmarks").join(file)), text(out));
    let args = ["eval", "--device", "cpu", "--json", "--max-new-tokens", max_new_tokens, "--model", &model];
    let args = [args.as_slice(), &["--data", &data]].concat();
    let finished = run("distill", [args.as_slice(), &["--out", &out_text]].concat()).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    let predictions = std::fs::read_to_string(out.join("predictions.jsonl")).unwrap();
    let lines = predictions.lines().map(|line| serde_json::from_str(line).unwrap());
    (serde_json::from_str(&finished.stdout).unwrap(), lines.collect())
}

/// transformers' greedy generation counts what was seen against a token, where generation_config.json asks for it: so much that
/// no token comes twice. How it counts is compared with transformers in `answers.rs`.
#[test]
fn a_checkpoints_repetition_penalty_holds() {
    let dir = tempfile::tempdir().unwrap();
    let copy = copy_of("internvl");
    let answers = |penalty: f64, out: &str| -> Vec<Value> {
        let json = json!({ "repetition_penalty": penalty }).to_string();
        std::fs::write(copy.path().join("generation_config.json"), json).unwrap();
        let (_, predictions) = evaluate_model(copy.path(), "12", "vqa.json", &dir.path().join(out));
        predictions.iter().map(|row| row["prediction"].clone()).collect()
    };
    assert_ne!(answers(1.0, "plain"), answers(1e6, "penalised"));
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

#[test]
fn mmmu_places_its_images_in_question_and_options() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, predictions) = evaluate("mmmu.parquet", dir.path());
    let options = |options: &[&str]| {
        let lines = options.iter().zip('A'..).map(|(option, letter)| format!("{letter}. {option}\n"));
        lines.collect::<String>() + ANSWER
    };
    // Without the images' places, which the texts around them show.
    let row = |id: &str, kind: &str, question: String, answer: &str| {
        [json!(id), json!(kind), json!(question), json!(answer)]
    };
    let expected = [
        row(
            "validation_Accounting_1",
            "Managerial",
            format!("What is the cost?\n{}", options(&["$6", "it's $7", "both"])),
            "B",
        ),
        row(
            "validation_Art_2",
            "Drawing",
            format!("Which follows  and ?\n{}", options(&["", "", "", ""])),
            "D",
        ),
        row("validation_Physics_3", "Optics", "How fast?".into(), "24/7"),
        row("validation_Physics_4", "Optics", "How many?".into(), "7"),
        row("test_Music_5", "Music", format!("?\n{}", options(&["x", "y"])), ""),
    ];
    assert_eq!(asked(&predictions), expected);
    // The hidden answer is handed in; the row that mentions an image that is not there is set aside.
    assert_eq!((&summary["questions"], &summary["submitted"]), (&json!(4), &json!(1)));
    assert_eq!(summary["quarantined"], 1);
}

#[test]
fn options_may_be_a_column_of_lists() {
    let dir = tempfile::tempdir().unwrap();
    let (summary, predictions) = evaluate("mmmu_lists.parquet", dir.path());
    let question = format!("What is the cost?\nA. $6\nB. it's $7\nC. both\n{ANSWER}");
    let expected = [json!("validation_Accounting_1"), Value::Null, json!(question), json!("B")];
    assert_eq!((asked(&predictions), &summary["questions"]), (vec![expected], &json!(1)));
}

#[test]
fn a_table_has_blank_lines_and_rows_that_nothing_could_answer() {
    let dir = tempfile::tempdir().unwrap();
    let published = std::fs::read_to_string(fixture("benchmarks/mmbench.tsv")).unwrap();
    let image = published.split('\t').find(|field| field.starts_with("iVBOR")).unwrap();
    let row = |index: u8, options: [&str; 4], answer: &str| {
        format!("{index}\tWhich?\t{}\t{answer}\t{image}\n", options.join("\t"))
    };
    let rows = [
        "index\tquestion\tA\tB\tC\tD\tanswer\timage\n".to_owned(),
        row(1, ["x", "y", "", ""], "A"),
        // pandas reads on behind it.
        "\n".to_owned(),
        row(2, ["x", "", "z", ""], "C"),
        row(3, ["x", "y", "", ""], "D"),
        row(4, ["", "", "", ""], "A"),
        row(5, ["x", "y", "z", ""], "C"),
    ];
    let file = dir.path().join("table.tsv");
    std::fs::write(&file, rows.concat()).unwrap();
    let (summary, predictions) = evaluate(file.to_str().unwrap(), &dir.path().join("out"));
    let ids: Vec<&Value> = predictions.iter().map(|row| &row["id"]).collect();
    assert_eq!((ids, &summary["quarantined"]), (vec![&json!("1"), &json!("5")], &json!(3)));
}

#[test]
fn answers_come_as_texts_numbers_and_lists() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("benchmarks/v1_0.png");
    let vqa = |answer: Value| {
        let mut row = json!({ "image": image, "question": "Which?" });
        row.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
        row
    };
    let read = |name: &str, rows: Value| {
        let file = dir.path().join(name).with_extension("json");
        std::fs::write(&file, rows.to_string()).unwrap();
        let (summary, predictions) = evaluate(file.to_str().unwrap(), &dir.path().join(name));
        let references = predictions.iter().map(|row| row["reference"].clone()).collect::<Vec<_>>();
        (references, ["questions", "submitted", "quarantined"].map(|key| summary[key].as_u64().unwrap()))
    };
    let rows = json!([
        vqa(json!({ "answer": ["red", "blue"] })),
        vqa(json!({ "answers": "green" })),
        vqa(json!({ "answer": 3 })),
        vqa(json!({ "answers": null, "answer": "grey" })),
        // Hidden, in two ways.
        vqa(json!({ "answers": [] })),
        vqa(json!({ "answer": "" })),
        // Neither a text nor a number.
        vqa(json!({ "answer": true })),
    ]);
    let expected = ["red", "green", "3", "grey", "", ""].map(Value::from).to_vec();
    assert_eq!(read("vqa", rows), (expected, [4, 2, 1]));
    let rows = json!([{ "imgname": image, "query": "How many?", "label": ["14", "fourteen"] }]);
    assert_eq!(read("chartqa", rows), (vec![json!("14")], [1, 0, 0]));
}

#[test]
fn answers_that_are_handed_in_never_take_each_others_place() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("benchmarks/v1_0.png");
    let row = |id: u32| json!({ "image": image, "question": "Which?", "question_id": id });
    let paths = ["a", "b"].map(|folder| dir.path().join(folder).join("test.json"));
    for (path, rows) in paths.iter().zip([json!([row(7), row(8), row(7)]), json!([row(7)])]) {
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(path, rows.to_string()).unwrap();
    }
    let [model, first, second, out] = [&fixture("internvl"), &paths[0], &paths[1], &dir.path().join("out")]
        .map(|it| it.display().to_string());
    let args =
        ["eval", "--device", "cpu", "--json", "--max-new-tokens", "3", "--model", &model, "--out", &out];
    let finished = run("distill", [&args[..], &["--data", &first, "--data", &second]].concat()).unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    // One file can hold one answer for an id: its third row is set aside, and said.
    assert!(finished.stderr.contains("row 2: its answer would be handed in as `7`"), "{}", finished.stderr);
    let summary: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!((&summary["submitted"], &summary["quarantined"]), (&json!(3), &json!(1)));
    assert_eq!(summary["submissions"], json!(["submission-test.json", "submission-test-2.json"]));
    let ids = |name: &str| -> Vec<String> {
        let text = std::fs::read(Path::new(&out).join(name)).unwrap();
        serde_json::from_slice::<serde_json::Map<String, Value>>(&text).unwrap().keys().cloned().collect()
    };
    assert_eq!(
        (ids("submission-test.json"), ids("submission-test-2.json")),
        (vec!["7".into(), "8".into()], vec!["7".into()])
    );
}

#[test]
fn mmmu_pro_has_ten_options_or_its_question_in_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let (_, predictions) = evaluate("mmmu_pro.parquet", &dir.path().join("standard"));
    let question = predictions[0]["question"].as_str().unwrap();
    assert!(
        question.starts_with("Which year? \nA. 1900\n") && question.contains("\nJ. 1909\n"),
        "{question}"
    );
    assert_eq!((&predictions[0]["reference"], &predictions[0]["type"]), (&json!("J"), &json!("History")));
    let (summary, predictions) = evaluate("mmmu_pro_vision.parquet", &dir.path().join("vision"));
    let expected = json!("Answer the question in the image with the letter of the right option.");
    assert_eq!((&predictions[0]["question"], &predictions[0]["reference"]), (&expected, &json!("C")));
    assert_eq!(summary["questions"], 1);
}
