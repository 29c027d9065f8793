//! A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::StageName;
use crate::train::metrics::{EvalRow, FILE_NAME, Terms, peak_rss_bytes};

fn row(step: usize) -> Row {
    Row {
        stage: StageName::Align,
        step,
        loss: 0.1 + step as f64,
        terms: Terms { kl: Some(0.25), ..Terms::default() },
        eval: EvalRow::default(),
        lr: 1e-4,
        grad_norm: 2.0,
        tokens_per_second: 10.0,
        peak_rss_bytes: 1 << 20,
        loader_stall: 0.0,
    }
}

#[test]
fn lines_hold_the_promised_fields_and_are_cut_on_resume() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RunLog::open(dir.path(), Offsets::default()).unwrap();
    writer.append(&row(1)).unwrap();
    let kept = writer.sync().unwrap();
    writer.append(&row(2)).unwrap();
    let mut writer = RunLog::open(dir.path(), kept).unwrap();
    writer.append(&row(3)).unwrap();
    let text = std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
    let rows: Vec<Row> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows, [row(1), row(3)]);
    // The fields that scripts rely on.
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    for field in "stage step loss ce_teacher kl ce_student control_shuffled control_zeroed lr grad_norm \
                  tokens_per_second peak_rss_bytes loader_stall"
        .split_whitespace()
    {
        assert!(first.get(field).is_some(), "{field}");
    }
    assert!(peak_rss_bytes() > 1 << 20);
}

#[test]
fn missing_rows_are_refused_and_a_missing_event_file_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RunLog::open(dir.path(), Offsets::default()).unwrap();
    let begun = writer.sync().unwrap();
    writer.append(&row(1)).unwrap();
    let kept = writer.sync().unwrap();
    let events = dir.path().join(crate::train::tensorboard::FILE_NAME);
    std::fs::remove_file(&events).unwrap();
    RunLog::open(dir.path(), kept).unwrap();
    assert_eq!(std::fs::metadata(&events).unwrap().len(), begun.events_bytes, "its head alone");
    std::fs::write(dir.path().join(FILE_NAME), "{").unwrap();
    let error = RunLog::open(dir.path(), kept).unwrap_err().to_string();
    assert!(error.contains("has 1 bytes") && error.contains("hint:"), "{error}");
}

#[test]
fn samples_left_out_after_a_checkpoint_are_listed_once() {
    let dir = tempfile::tempdir().unwrap();
    let left_out = |place: &str| [Skipped { place: place.into(), reason: "broken".into() }];
    let mut log = RunLog::open(dir.path(), Offsets::default()).unwrap();
    assert_eq!(log.sync().unwrap().skipped_bytes, 0);
    log.skip(&[]).unwrap();
    let path = dir.path().join(SKIPPED);
    assert!(!path.exists(), "nothing was left out");
    log.skip(&left_out("first")).unwrap();
    let kept = log.sync().unwrap();
    log.skip(&left_out("second")).unwrap();
    let mut log = RunLog::open(dir.path(), kept).unwrap();
    log.skip(&left_out("second")).unwrap();
    let places = || -> Vec<String> {
        let lines = std::fs::read_to_string(&path).unwrap();
        let place = |line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["place"].as_str().unwrap().to_owned()
        };
        lines.lines().map(place).collect()
    };
    assert_eq!(places(), ["first", "second"]);
    // A checkpoint of before the list was cut says nothing of it.
    let earlier: Offsets = serde_json::from_str(r#"{"metrics_bytes": 0, "events_bytes": 0}"#).unwrap();
    RunLog::open(dir.path(), earlier).unwrap();
    assert_eq!(places(), ["first", "second"]);
}
