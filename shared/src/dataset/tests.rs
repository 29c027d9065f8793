#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;

use super::*;

mod formats;

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn read(source: &str, options: &DatasetOptions) -> Vec<Result<Record, BadRow>> {
    open(&[source.to_owned()], options).unwrap().map(|row| row.unwrap()).collect()
}

fn row(image: &str, question: &str, answer: &str) -> String {
    serde_json::json!({
        "id": "a", "image": image,
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
    })
    .to_string()
}

/// The reason for which a lone row is refused.
fn refusal(json: &str, options: &DatasetOptions) -> String {
    let dir = tempfile::tempdir().unwrap();
    // In a list behind a good row, so that a row of any shape gets as far as the parser.
    let good = row("a.png", "<image>", "x");
    let source = write(dir.path(), "rows.json", &format!("[{good},{json}]"));
    let rows = read(&source, options);
    assert_eq!(rows.len(), 2);
    rows[1].as_ref().unwrap_err().reason.clone()
}

fn text(text: &str) -> Part {
    Part::Text { text: text.into() }
}

#[test]
fn a_list_and_lines_give_the_same_records() {
    let dir = tempfile::tempdir().unwrap();
    let rows =
        [row("b/x.png", "<image>\nWhat?", "A \"cat\", [or] {two}"), row("y.jpg", "See\n<image>\nok?", "é\\")];
    let compact = write(dir.path(), "compact.json", &format!("[{}]", rows.join(",")));
    let value: serde_json::Value = serde_json::from_str(&format!("[{}]", rows.join(","))).unwrap();
    let pretty = write(dir.path(), "pretty.data", &serde_json::to_string_pretty(&value).unwrap());
    let lines = write(dir.path(), "lines.jsonl", &format!("\u{feff}{}\r\n\n{}", rows[0], rows[1]));
    let options = DatasetOptions::default();
    let contents = |source: &str| -> Vec<_> {
        let rows = read(source, &options).into_iter().map(Result::unwrap);
        rows.map(|r| (r.row, r.id, r.messages, r.images)).collect()
    };
    let expected = contents(&compact);
    assert_eq!(expected.len(), 2);
    assert_eq!(expected[0].2[0].content, [Part::Image, text("What?")]);
    assert_eq!(expected[1].2[0].content, [text("See"), Part::Image, text("ok?")]);
    assert_eq!(expected[0].3, [ImageSource::Path(dir.path().join("b/x.png"))]);
    assert_eq!(contents(&pretty), expected);
    assert_eq!(contents(&lines), expected);
}

#[test]
fn rows_far_larger_than_the_read_buffer_stay_whole() {
    let dir = tempfile::tempdir().unwrap();
    let long = "\\\"[{,]}".repeat(100_000);
    let rows: Vec<_> = (0..3).map(|i| row("x.png", &format!("<image>{i}"), &long)).collect();
    let source = write(dir.path(), "rows.json", &format!("[\n{}\n]\n", rows.join(" ,\n ")));
    let read = read(&source, &DatasetOptions::default());
    assert_eq!(read.len(), 3);
    for (index, record) in read.iter().enumerate() {
        let record = record.as_ref().unwrap();
        assert_eq!(record.row, index as u64);
        assert_eq!(record.messages[0].content, [Part::Image, text(&index.to_string())]);
        assert_eq!(record.messages[1].content, [text(&long)]);
    }
}

#[test]
fn images_may_be_one_several_absent_or_under_the_other_name() {
    let dir = tempfile::tempdir().unwrap();
    let conversations = |value: &str| serde_json::json!([{"from": "user", "value": value}, {"from": "assistant", "value": "x"}]);
    let rows = serde_json::json!([
        {"image": "a.png", "conversations": conversations("<image>")},
        {"image": ["a.png", "b.png"], "conversations": conversations("<image>\n<image>\nBoth?")},
        {"images": ["a.png"], "conversations": conversations("Q <image>"), "id": 7},
        {"image": null, "conversations": conversations("no image")},
        {"conversations": conversations("none")},
    ]);
    let source = write(dir.path(), "rows.json", &rows.to_string());
    let records: Vec<_> = read(&source, &DatasetOptions::default()).into_iter().map(Result::unwrap).collect();
    let counts: Vec<_> = records.iter().map(|record| record.images.len()).collect();
    assert_eq!(counts, [1, 2, 1, 0, 0]);
    assert_eq!(records[1].messages[0].content, [Part::Image, Part::Image, text("Both?")]);
    assert_eq!(records[2].messages[0].content, [text("Q "), Part::Image]);
    assert_eq!(records[2].id.as_deref(), Some("7"));
    assert_eq!(records[0].id, None);
}

#[test]
fn an_answer_that_nothing_asked_for_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let json = r#"[{"conversations": [{"from": "system", "value": "s"}, {"from": "gpt", "value": "dropped"},
        {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]"#;
    let source = write(dir.path(), "rows.json", json);
    let record = read(&source, &DatasetOptions::default()).remove(0).unwrap();
    let roles: Vec<_> = record.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant]);
}

#[test]
fn rows_that_cannot_be_used_say_why() {
    let options = DatasetOptions::default();
    let cases = [
        (row("a.png", "no placeholder", "x"), "`--prepend-image`"),
        (row("a.png", "<image> <image>", "x"), "2 `<image>` placeholder(s) and 1 image(s)"),
        (row("a.png", "<image>", " \n"), "turn 1 is an empty answer"),
        (row("a.png", "<image>", "see <image>"), "images belong to questions"),
        (row("../a.png", "<image>", "x"), "leaves the image root"),
        (row("/etc/passwd", "<image>", "x"), "leaves the image root"),
        (row("b/../../a.png", "<image>", "x"), "leaves the image root"),
        (row("", "<image>", "x"), "an image path is empty"),
        (r#"{"conversations": []}"#.into(), "has no turns"),
        (r#"{"conversations": [{"from": "human", "value": "q"}]}"#.into(), "has no answer"),
        (r#"{"conversations": [{"from": "bot", "value": "q"}]}"#.into(), "turn 0 is from `bot`"),
        (
            r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "human", "value": "q"}]}"#.into(),
            "does not follow",
        ),
        (r#"{"id": 1}"#.into(), "missing field `conversations`"),
        (r#"{"id": }"#.into(), "expected value"),
        ("17".into(), "is not a LLaVA row"),
    ];
    for (json, expected) in cases {
        let reason = refusal(&json, &options);
        assert!(reason.contains(expected), "{json} gave `{reason}`, expected `{expected}`");
    }
}

#[test]
fn prepending_images_needs_to_be_asked_for_and_puts_them_first() {
    let dir = tempfile::tempdir().unwrap();
    let source = write(dir.path(), "rows.jsonl", &row("a.png", "What?", "x"));
    let options = DatasetOptions { prepend_image: true, ..DatasetOptions::default() };
    let record = read(&source, &options).remove(0).unwrap();
    assert_eq!(record.messages[0].content, [Part::Image, text("What?")]);
    let reason = refusal(&row("a.png", "<image><image>", "x"), &options);
    assert!(reason.contains("2 `<image>`"), "{reason}");
}

#[test]
fn image_paths_start_from_the_image_root() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("pictures");
    let inside = root.join("a.png").display().to_string();
    let source = write(
        dir.path(),
        "rows.jsonl",
        &format!("{}\n{}", row("./a.png", "<image>", "x"), row(&inside, "<image>", "x")),
    );
    let options = DatasetOptions { image_root: Some(root.clone()), ..DatasetOptions::default() };
    for record in read(&source, &options) {
        let images = record.unwrap().images;
        assert_eq!(images, [ImageSource::Path(root.join("a.png"))]);
        let error = images[0].read().unwrap_err().to_string();
        assert!(error.contains("a.png") && error.contains("hint: `--image-root`"), "{error}");
    }
}

#[test]
fn bad_lines_do_not_stop_the_lines_after_them() {
    let dir = tempfile::tempdir().unwrap();
    let good = row("a.png", "<image>", "x");
    let source = write(dir.path(), "rows.jsonl", &format!("{good}\n{{\"id\": \"b\", \"conver\n{good}\n"));
    let rows = read(&source, &DatasetOptions::default());
    assert_eq!(rows.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let shown = rows[1].as_ref().unwrap_err().to_string();
    assert!(shown.starts_with(&format!("`{source}` row 1: ")), "{shown}");
}

#[test]
fn what_is_no_dataset_fails_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |name: &str, text: &str| {
        let source = write(dir.path(), name, text);
        let error = open(&[source], &DatasetOptions::default()).err().map(|error| error.to_string());
        error.unwrap_or_else(|| panic!("`{text}` was accepted"))
    };
    assert!(fails("a.json", "id,question\n1,x").contains("neither a JSON list nor JSON lines"));
    assert!(fails("b.json", " \n").contains("is empty"));
    assert!(fails("c.jsonl", "{\"id\": 1}").contains("of no known format"));
    assert!(fails("d.jsonl", "{\n \"id\": 1\n}").contains("not JSON"));
    let missing = open(&["/nowhere/rows.json".to_owned()], &DatasetOptions::default()).err().unwrap();
    assert!(missing.to_string().contains("hint:"), "{missing}");
}

#[test]
fn a_cut_off_list_ends_in_a_fatal_error_after_its_whole_rows() {
    let dir = tempfile::tempdir().unwrap();
    let good = row("a.png", "<image>", "x");
    for (name, text, expected) in [
        ("a.json", format!("[{good},{good},{{\"id\": \"c"), "ends in the middle after 2 rows"),
        ("b.json", format!("[{good},{good}"), "ends in the middle after 1 rows"),
        ("c.json", format!("[{good},{good}] [1]"), "is followed by something else after 2 rows"),
    ] {
        let source = write(dir.path(), name, &text);
        let mut rows: Vec<_> = open(&[source], &DatasetOptions::default()).unwrap().collect();
        let error = rows.pop().unwrap().unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("hint:"), "{error}");
        assert!(rows.iter().all(|row| row.as_ref().unwrap().is_ok()));
    }
}

#[test]
fn folders_and_patterns_name_several_files() {
    let dir = tempfile::tempdir().unwrap();
    for (name, answer) in
        [("b.jsonl", "2"), ("a.json", "1"), ("c.txt", "no"), ("part-01.jsonl", "3"), ("part-2.jsonl", "4")]
    {
        write(dir.path(), name, &row("a.png", "<image>", answer));
    }
    let answers = |source: String| -> Vec<String> {
        let records = read(&source, &DatasetOptions::default()).into_iter().map(Result::unwrap);
        records.map(|record| format!("{:?}", record.messages[1].content)).collect()
    };
    let all =
        |answers: &[&str]| -> Vec<String> { answers.iter().map(|a| format!("{:?}", [text(a)])).collect() };
    assert_eq!(answers(dir.path().display().to_string()), all(&["1", "2", "3", "4"]));
    assert_eq!(answers(dir.path().join("part-*.jsonl").display().to_string()), all(&["3", "4"]));
    assert_eq!(answers(dir.path().join("part-?.jsonl").display().to_string()), all(&["4"]));
    let none =
        open(&[dir.path().join("x*").display().to_string()], &DatasetOptions::default()).err().unwrap();
    assert!(none.to_string().contains("no dataset file matches"), "{none}");
}

#[test]
fn progress_counts_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let first = write(dir.path(), "a.json", &format!("[{}]  ", row("a.png", "<image>", "x")));
    let second = write(dir.path(), "b.jsonl", &row("a.png", "<image>", "x"));
    let total: u64 = [&first, &second].map(|path| fs::metadata(path).unwrap().len()).iter().sum();
    let mut dataset = open(&[first, second], &DatasetOptions::default()).unwrap();
    assert_eq!(dataset.progress(), (0, total));
    assert_eq!(dataset.by_ref().count(), 2);
    assert_eq!(dataset.progress(), (total, total));
}

#[test]
fn canonical_json_is_what_the_cache_promises_and_parses_back() {
    let messages = [
        Message::new(Role::User, vec![Part::Image, text("a \"b\" é")]),
        Message::new(Role::Assistant, vec![text("c")]),
    ];
    let json = canonical_json(&messages);
    // Frozen: sample keys are computed from these bytes.
    let expected = concat!(
        r#"[{"role":"user","content":[{"type":"image"},{"type":"text","text":"a \"b\" é"}]},"#,
        r#"{"role":"assistant","content":[{"type":"text","text":"c"}]}]"#,
    );
    assert_eq!(json, expected);
    assert_eq!(parse_canonical(&json).unwrap(), messages);
}
