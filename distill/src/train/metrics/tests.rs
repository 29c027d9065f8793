//! A failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

use super::*;

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
    let mut writer = MetricsWriter::open(dir.path(), Offsets::default()).unwrap();
    writer.append(&row(1)).unwrap();
    let kept = writer.sync().unwrap();
    writer.append(&row(2)).unwrap();
    let mut writer = MetricsWriter::open(dir.path(), kept).unwrap();
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
    let mut writer = MetricsWriter::open(dir.path(), Offsets::default()).unwrap();
    let begun = writer.sync().unwrap();
    writer.append(&row(1)).unwrap();
    let kept = writer.sync().unwrap();
    let events = dir.path().join(crate::train::tensorboard::FILE_NAME);
    std::fs::remove_file(&events).unwrap();
    MetricsWriter::open(dir.path(), kept).unwrap();
    assert_eq!(std::fs::metadata(&events).unwrap().len(), begun.events_bytes, "its head alone");
    std::fs::write(dir.path().join(FILE_NAME), "{").unwrap();
    let error = MetricsWriter::open(dir.path(), kept).unwrap_err().to_string();
    assert!(error.contains("has 1 bytes") && error.contains("hint:"), "{error}");
}
