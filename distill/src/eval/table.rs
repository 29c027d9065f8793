//! The result as a table for a terminal.

use std::fmt::Write;

use super::{Score, Summary};

const BAR_WIDTH: usize = 20;

/// One line a kind of question and one for all, with a bar each.
#[must_use]
pub fn text_table(summary: &Summary) -> String {
    let width = summary.by_type.keys().map(|kind| kind.chars().count()).max().unwrap_or(0).max(8);
    let mut text = format!("{:width$}  questions  correct  accuracy\n", "type");
    for (kind, score) in &summary.by_type {
        text += &line(kind, *score, width);
    }
    if summary.score.questions > 0 {
        text += &line("all", summary.score, width);
    }
    if let Some([low, high]) = summary.interval {
        let _ = writeln!(text, "95 % interval of the accuracy: {:.1} to {:.1} %", low * 100.0, high * 100.0);
    }
    if summary.submitted > 0 {
        let files = summary.submissions.join(", ");
        let _ = writeln!(text, "{} answers to be graded elsewhere are in {files}", summary.submitted);
    }
    if summary.quarantined > 0 {
        let _ = writeln!(text, "{} rows could not be evaluated", summary.quarantined);
    }
    text
}

fn line(name: &str, score: Score, width: usize) -> String {
    let filled = (score.accuracy * BAR_WIDTH as f64).round() as usize;
    let bar = format!("{}{}", "█".repeat(filled), "·".repeat(BAR_WIDTH - filled));
    let percent = score.accuracy * 100.0;
    format!("{name:width$}  {:9}  {:7}  {percent:6.1} %  {bar}\n", score.questions, score.correct)
}
