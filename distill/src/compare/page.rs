//! The comparison as a page: the table, and the accuracies as points with their intervals.

use super::statistics::{Comparison, Row, label};
use super::{UseCurve, table};
use crate::report::chart::{Chart, Marks, Series};
use crate::report::html::{document, escape, svg_file, table as html_table};
use crate::report::intervals::{Point, figure};

/// The figures: accuracies, gains, and how much the students were used. Those without anything to show are empty.
pub(super) struct Figures {
    accuracy: String,
    gain: String,
    usage: String,
    use_and_gain: String,
}

impl Figures {
    pub(super) fn of(comparison: &Comparison) -> Self {
        let over = format!("Gain over {}", comparison.baseline);
        let difference = "difference of the accuracies, in percentage points";
        Self {
            accuracy: figure(
                "accuracy",
                "Accuracy",
                "share of right answers, in %",
                &points(comparison, accuracy),
            ),
            gain: figure("gain", &over, difference, &points(comparison, gain)),
            usage: usage(comparison),
            use_and_gain: use_and_gain(comparison, difference),
        }
    }

    /// Each as a file of its own, by its name, without those that are empty.
    pub(super) fn files(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("accuracy.svg", &self.accuracy),
            ("gain.svg", &self.gain),
            ("use.svg", &self.usage),
            ("use_and_gain.svg", &self.use_and_gain),
        ];
        all.into_iter().filter_map(|(name, figure)| Some((name, svg_file(figure)?))).collect()
    }
}

/// One series for every row with a Recalibrator.
fn series(comparison: &Comparison, points: impl Fn(&UseCurve) -> Vec<(f64, f64)>) -> Vec<Series> {
    let series = |(style, curve): (usize, &UseCurve)| Series {
        name: curve.name.clone(),
        points: points(curve),
        style,
    };
    comparison.usage.iter().enumerate().map(series).collect()
}

/// The use of the student over the steps, one line a row.
fn usage(comparison: &Comparison) -> String {
    let chart = Chart {
        title: "Use of the student".into(),
        description: "How much the loss through the teacher's head rises with another sample's question, at each evaluation, \
                      one line a row, mean of its seeds."
            .into(),
        x_label: "step".into(),
        y_label: "nats per token".into(),
        series: series(comparison, |curve| curve.points.clone()),
        legend_inside: true,
        ..Chart::default()
    };
    chart.figure("use")
}

/// Each run's last use of the student and its gain.
fn use_and_gain(comparison: &Comparison, difference: &str) -> String {
    let said = match comparison.use_predicts_gain {
        Some(rho) => format!("One point a run; their rank correlation (Spearman's) is {rho:.2}."),
        None => "One point a run.".to_owned(),
    };
    let percent = |curve: &UseCurve| curve.gains.iter().map(|(x, y)| (*x, y * 100.0)).collect();
    let chart = Chart {
        title: format!("Does the use of the student tell the gain? {said}"),
        description: said,
        x_label: "use of the student at the last evaluation, in nats per token".into(),
        y_label: difference.into(),
        series: series(comparison, percent),
        legend_inside: true,
        marks: Marks::Dots,
        ..Chart::default()
    };
    chart.figure("use-gain")
}

pub(super) fn render(title: &str, comparison: &Comparison, figures: &Figures) -> String {
    let baseline = escape(&comparison.baseline);
    let mut body = format!(
        "<h1>{}</h1>\n<p class=\"lead\">Each row is one student, trained as named, once a seed, and asked the same questions. \
         Intervals are 95 %, from a bootstrap over seeds and questions together.</p>\n",
        escape(title)
    );
    body += "<div class=\"grid2\">\n";
    for figure in [&figures.accuracy, &figures.gain, &figures.usage, &figures.use_and_gain] {
        body += figure;
    }
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
        Some(Point {
            name: label(row.teacher.as_deref(), &row.student, row.variant.as_deref()),
            value: percent(mean),
            interval: interval.map(percent),
        })
    };
    comparison.rows.iter().filter_map(point).collect()
}

fn accuracy(row: &Row) -> Option<Measured> {
    Some((row.mean, row.interval))
}

fn gain(row: &Row) -> Option<Measured> {
    row.gain.map(|it| (it.mean, it.interval))
}
