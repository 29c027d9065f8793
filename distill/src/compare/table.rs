//! The comparison as a table: for a terminal and as Markdown.

use std::fmt::Write;

use super::statistics::{Comparison, Row};

const HEAD: [&str; 8] =
    ["teacher", "student", "variant", "accuracy", "95 %", "over the baseline", "use of the student", "cost"];

/// The cells of one row, as text.
pub(super) fn cells(row: &Row) -> [String; 8] {
    let percent = |value: f64| format!("{:.1}", value * 100.0);
    let signed = |value: f64| format!("{:+.1}", value * 100.0);
    let spread = row.deviation.map_or(String::new(), |it| format!(" ± {}", percent(it)));
    let seeds = match row.accuracies.len() {
        1 => String::new(),
        count => format!(" ({count} seeds)"),
    };
    let gain = row.gain.map_or(String::new(), |it| {
        format!("{} [{}, {}]", signed(it.mean), signed(it.interval[0]), signed(it.interval[1]))
    });
    let seconds = row.seconds.map(|it| format!("{it:.0} s"));
    let memory = row.peak_rss_bytes.map(|it| format!("{} MiB", it >> 20));
    [
        row.teacher.clone().unwrap_or_else(|| "–".into()),
        row.student.clone(),
        row.variant.clone().unwrap_or_else(|| "before training".into()),
        format!("{}{spread} %{seeds}", percent(row.mean)),
        format!("{} to {}", percent(row.interval[0]), percent(row.interval[1])),
        gain,
        row.student_use.map_or(String::new(), |it| format!("{it:.3} nats")),
        seconds.into_iter().chain(memory).collect::<Vec<_>>().join(", "),
    ]
}

/// The headings, with the baseline's name.
pub(super) fn head(comparison: &Comparison) -> [String; 8] {
    HEAD.map(|it| it.replace("the baseline", &comparison.baseline))
}

/// What is missing, and why.
pub(super) fn failures(comparison: &Comparison) -> Vec<String> {
    comparison.failures.iter().map(|it| format!("failed: {}: {}", it.cell, it.reason)).collect()
}

pub(super) fn text(comparison: &Comparison) -> String {
    let head = head(comparison);
    let rows: Vec<_> = comparison.rows.iter().map(cells).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|at| rows.iter().chain([&head]).map(|row| row[at].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(&rows) {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
    failures(comparison).iter().fold(text, |text, line| text + line + "\n")
}

pub(super) fn markdown(comparison: &Comparison) -> String {
    let head = head(comparison);
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in &comparison.rows {
        let _ = writeln!(text, "| {} |", cells(row).map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
    for line in failures(comparison) {
        let _ = write!(text, "\n{line}\n");
    }
    text
}
