//! The comparison as a page: the table, and the accuracies as points with their intervals.

use super::statistics::{Comparison, Row};
use super::table;
use crate::report::html::{document, escape, table as html_table};
use crate::report::intervals::{Point, figure};

pub(super) fn render(title: &str, comparison: &Comparison) -> String {
    let baseline = escape(&comparison.baseline);
    let mut body = format!(
        "<h1>{}</h1>\n<p class=\"lead\">Each row is one student, trained as named, once a seed, and asked the same questions. \
         Intervals are 95 %, from a bootstrap over seeds and questions together.</p>\n",
        escape(title)
    );
    body += "<div class=\"grid2\">\n";
    body += &figure("accuracy", "Accuracy", "share of right answers, in %", &points(comparison, accuracy));
    body += &figure(
        "gain",
        &format!("Gain over {}", comparison.baseline),
        "difference of the accuracies, in percentage points",
        &points(comparison, gain),
    );
    body += "</div>\n";
    let head = table::head(comparison).map(|it| escape(&it));
    let rows: Vec<Vec<String>> =
        comparison.rows.iter().map(|row| table::cells(row).map(|it| escape(&it)).to_vec()).collect();
    let caption = format!(
        "Accuracy as mean and standard deviation over the seeds; gains pair each seed and question with {}; use of the \
         student is how much the Recalibrator's loss rises with another sample's question",
        comparison.baseline
    );
    body += &format!("<h2>All rows, beside {baseline}</h2>\n{}", html_table(&caption, &head, &rows));
    for line in table::failures(comparison) {
        body += &format!("<p class=\"no\">{}</p>\n", escape(&line));
    }
    document(&escape(title), &body)
}

/// A value with its interval, as shares.
type Measured = (f64, [f64; 2]);

fn points(comparison: &Comparison, value: fn(&Row) -> Option<Measured>) -> Vec<Point> {
    let point = |row: &Row| {
        let (mean, interval) = value(row)?;
        let percent = |it: f64| it * 100.0;
        Some(Point { name: name(row), value: percent(mean), interval: interval.map(percent) })
    };
    comparison.rows.iter().filter_map(point).collect()
}

fn accuracy(row: &Row) -> Option<Measured> {
    Some((row.mean, row.interval))
}

fn gain(row: &Row) -> Option<Measured> {
    row.gain.map(|it| (it.mean, it.interval))
}

fn name(row: &Row) -> String {
    match (&row.teacher, &row.variant) {
        (Some(teacher), Some(variant)) => format!("{variant}: {teacher} → {}", row.student),
        (None, Some(variant)) => format!("{variant}: {}", row.student),
        (_, None) => format!("{}, before", row.student),
    }
}
