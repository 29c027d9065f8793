//! Which curves a report shows, and what it says about them.

use std::fmt::Write;

use super::chart::{Band, Chart, Scale, Series, number};
use super::html::{escape, table};
use super::run::Run;

/// The loss terms by name in `metrics.jsonl`, with what a reader calls them.
const TERMS: [(&str, &str); 7] = [
    ("loss", "loss (weighted sum)"),
    ("ce_teacher", "cross entropy, teacher's head"),
    ("kl", "KL to the teacher"),
    ("ce_student", "cross entropy, student's head"),
    ("ce_regularisation", "cross entropy, regularisation pass"),
    ("kl_regularisation", "KL, regularisation pass"),
    ("mse_regularisation", "squared error, regularisation pass"),
];

/// Loss curves, controls, and how the runs went.
pub(super) fn sections(runs: &[Run]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    [losses(runs), controls(runs), running(runs)].concat()
}

fn losses(runs: &[Run]) -> String {
    let figures: Vec<String> = runs.iter().enumerate().map(|(index, run)| loss_chart(run, index)).collect();
    let mut html = format!(
        "<h2>Losses</h2>\n<p>Means per answer token, in nats, on the training batches. Shaded stretches are the stages: \
         in <i>align</i> only the Recalibrator learns, in <i>distill</i> it learns together with the student's body, in \
         <i>finetune</i> the student stands alone.</p>\n<div class=\"grid2\">\n{}",
        figures.concat()
    );
    let chart = Chart {
        title: "Held-out loss of the student".into(),
        description: "The student's own cross entropy on held-out samples, one line a run.".into(),
        x_label: "step".into(),
        y_label: "nats per token".into(),
        series: one_line_a_run(runs, "eval_ce_student"),
        ..Chart::default()
    };
    html += &chart.figure("heldout");
    html + "</div>\n"
}

fn loss_chart(run: &Run, index: usize) -> String {
    let series: Vec<Series> = TERMS
        .iter()
        .enumerate()
        .map(|(style, (metric, name))| Series { name: (*name).into(), points: run.line(metric), style })
        .collect();
    let (first, last) = (series[0].points.first(), series[0].points.last());
    let trend = match (first, last) {
        (Some(first), Some(last)) => {
            format!(" The loss goes from {} to {}.", number(first.1), number(last.1))
        }
        _ => String::new(),
    };
    let chart = Chart {
        title: format!("Training loss: {}", run.name),
        description: format!("The loss and its terms over the steps of {}.{trend}", run.name),
        x_label: "step".into(),
        y_label: "nats per token".into(),
        series,
        bands: bands(run),
        scale: Scale::Log,
        ..Chart::default()
    };
    chart.figure(&format!("loss{index}"))
}

/// The leakage controls: a number a run without which nothing is proved.
fn controls(runs: &[Run]) -> String {
    let mut figures = String::new();
    let mut rows = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let (ce, kl) = (run.line("eval_ce_teacher"), run.line("eval_kl"));
        let real: Vec<(f64, f64)> = ce.iter().zip(&kl).map(|(ce, kl)| (ce.0, ce.1 + kl.1)).collect();
        let line = |name: &str, points: Vec<(f64, f64)>, style| Series { name: name.into(), points, style };
        let series = vec![
            line("the student's own features", real, 0),
            line("features of another sample", run.line("control_shuffled"), 1),
            line("zeros", run.line("control_zeroed"), 2),
        ];
        let last = |series: &Series| series.points.last().map(|point| point.1);
        let (Some(own), Some(shuffled), Some(zeroed)) =
            (last(&series[0]), last(&series[1]), last(&series[2]))
        else {
            continue;
        };
        let gap = |other: f64| format!("{:+.3}", other - own);
        rows.push(vec![
            escape(&run.name),
            format!("{own:.3}"),
            format!("{shuffled:.3}"),
            gap(shuffled),
            format!("{zeroed:.3}"),
            gap(zeroed),
        ]);
        let chart = Chart {
            title: format!("Controls: {}", run.name),
            description: format!(
                "Held-out loss through the Recalibrator with the student's own question features ({own:.3} at the end), \
                 with those of another sample ({shuffled:.3}) and with zeros ({zeroed:.3})."
            ),
            x_label: "step".into(),
            y_label: "cross entropy + KL, nats per token".into(),
            series,
            bands: bands(run),
            scale: Scale::FromZero,
            ..Chart::default()
        };
        figures += &chart.figure(&format!("control{index}"));
    }
    if rows.is_empty() {
        return String::new();
    }
    let head = ["run", "own", "shuffled", "gap", "zeroed", "gap"].map(str::to_owned);
    format!(
        "<h2>Is the student used?</h2>\n<p>The teacher's answer features alone already tell much of the next token, so \
         the Recalibrator could lower its loss and ignore the student. Here the student's question features are \
         exchanged between held-out samples, or replaced by zeros: how much worse that is, is how much the student \
         is used. No gap, no distillation.</p>\n<div class=\"grid2\">\n{figures}</div>\n{}",
        table("At the last evaluation: cross entropy + KL, nats per token", &head, &rows)
    )
}

fn running(runs: &[Run]) -> String {
    let charts = [
        ("lr", "Learning rate", "learning rate", Scale::FromZero),
        ("grad_norm", "Gradient norm before clipping", "norm", Scale::Log),
        ("tokens_per_second", "Throughput", "student tokens per second", Scale::FromZero),
    ];
    let mut html = String::from("<h2>How the runs went</h2>\n<div class=\"grid2\">\n");
    for (metric, title, y_label, scale) in charts {
        let chart = Chart {
            title: title.into(),
            description: format!("{title} over the steps, one line a run."),
            x_label: "step".into(),
            y_label: y_label.into(),
            series: one_line_a_run(runs, metric),
            bands: if runs.len() == 1 { bands(&runs[0]) } else { Vec::new() },
            scale,
            ..Chart::default()
        };
        let _ = write!(html, "{}", chart.figure(metric));
    }
    html + "</div>\n"
}

fn one_line_a_run(runs: &[Run], metric: &str) -> Vec<Series> {
    let line =
        |(style, run): (usize, &Run)| Series { name: run.name.clone(), points: run.line(metric), style };
    runs.iter().enumerate().map(line).collect()
}

fn bands(run: &Run) -> Vec<Band> {
    run.stages().into_iter().map(|(name, first, last)| Band { from: first - 1.0, to: last, name }).collect()
}
