//! Runs and evaluations as one HTML file that needs nothing else: no network, no script.
//!
//! ```text
//! RUN/metrics.jsonl, config.toml, eval*/  ->  Run, Evaluation  ->  charts, tables, samples  ->  report.html
//! ```

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub(crate) mod chart;
mod cost;
mod curves;
pub(crate) mod html;
pub(crate) mod intervals;
pub(crate) mod run;
mod samples;

use crate::eval::Score;
use html::{document, escape, share, table};
use run::{Evaluation, Run};

/// The heading of a report that was given none.
pub const TITLE: &str = "Distillation report";

/// More kinds of questions than this are folded away.
const SHOWN_KINDS: usize = 20;

/// What a report shows.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// The heading.
    pub title: String,
    /// Folders of `distill run`.
    pub runs: Vec<PathBuf>,
    /// Folders of `distill eval`, each with the name of its row; those inside runs come by themselves.
    pub evaluations: Vec<(String, PathBuf)>,
}

/// A report, not yet written.
#[derive(Clone, Debug)]
pub struct Report {
    /// The whole HTML file.
    pub page: String,
    /// Each evaluation's name and accuracy, in the order of the page's table.
    pub accuracies: Vec<(String, f64)>,
}

/// Makes the report.
///
/// # Errors
/// When a folder is not what it is given as.
pub fn render(options: &ReportOptions) -> Result<Report> {
    let runs = Run::open_all(&options.runs)?;
    let given = options.evaluations.iter().map(|(name, dir)| Evaluation::open(dir, name));
    let mut evaluations: Vec<Evaluation> = given.collect::<Result<_>>()?;
    evaluations.extend(runs.iter().flat_map(|run| run.evaluations.iter().cloned()));
    let accuracy = |it: &Evaluation| (it.name.clone(), it.summary.score.accuracy);
    let accuracies = evaluations.iter().map(accuracy).collect();
    Ok(Report { page: page(&options.title, &runs, &evaluations), accuracies })
}

/// Writes the page beside its final name and renames it, so that a reader never sees half of it.
///
/// # Errors
/// When the file cannot be written.
pub fn write(page: &str, out: &Path) -> Result<()> {
    let partial = out.with_extension("html.partial");
    let done = std::fs::write(&partial, page).and_then(|()| std::fs::rename(&partial, out));
    done.with_context(|| format!("cannot write `{}`\nhint: does its folder exist?", out.display()))
}

fn page(title: &str, runs: &[Run], evaluations: &[Evaluation]) -> String {
    let title = escape(title);
    let body = [
        format!("<h1>{title}</h1>\n<p class=\"lead\">{}</p>\n", lead(runs)),
        cards(runs, evaluations),
        accuracy(evaluations),
        samples::section(evaluations),
        curves::sections(runs),
        cost::section(runs),
        configuration(runs),
    ];
    document(&title, &body.concat())
}

fn lead(runs: &[Run]) -> String {
    let names: Vec<String> = runs.iter().map(|run| format!("<b>{}</b>", escape(&run.name))).collect();
    match names.len() {
        0 => "Evaluations side by side.".to_owned(),
        1 => format!("The run {}: what it learned, how it got there, and what it was told.", names[0]),
        _ => format!("The runs {}, side by side.", names.join(", ")),
    }
}

/// The few numbers a reader looks for first.
fn cards(runs: &[Run], evaluations: &[Evaluation]) -> String {
    let mut cards: Vec<(String, String)> = Vec::new();
    let best =
        evaluations.iter().max_by(|a, b| a.summary.score.accuracy.total_cmp(&b.summary.score.accuracy));
    if let Some(best) = best {
        let percent = best.summary.score.accuracy * 100.0;
        cards.push((format!("{percent:.1} %"), format!("best accuracy: {}", best.name)));
    }
    for run in runs {
        let steps = run.points.last().map_or(0.0, |point| point.step);
        cards.push((chart::number(steps), format!("steps: {}", run.name)));
    }
    let peak = runs.iter().filter_map(|run| run.last("peak_rss_bytes")).fold(0.0, f64::max);
    if peak > 0.0 {
        cards.push((bytes(peak), "most memory a run held".to_owned()));
    }
    let mut list = String::from("<ul class=\"cards\">\n");
    for (number, words) in &cards {
        let _ = writeln!(list, "<li><b>{}</b><span>{}</span></li>", escape(number), escape(words));
    }
    if cards.is_empty() { String::new() } else { list + "</ul>\n" }
}

fn accuracy(evaluations: &[Evaluation]) -> String {
    if evaluations.is_empty() {
        return "<h2>Accuracy</h2>\n<p>No evaluation yet: <code>distill eval --model RUN --data SRC</code> makes one, \
                and the report finds it in the run's folder.</p>\n"
            .to_owned();
    }
    let mut kinds: Vec<&String> = evaluations.iter().flat_map(|it| it.summary.by_type.keys()).collect();
    kinds.sort();
    kinds.dedup();
    let mut head = vec![String::from("kind of question")];
    head.extend(evaluations.iter().map(|it| escape(&it.name)));
    // One model asked fewer questions than another where rows were set aside: each cell says of how many.
    let cell = |score: Option<&Score>| {
        score.map_or_else(|| "–".to_owned(), |it| format!("{} of {}", share(it.accuracy), it.questions))
    };
    let row = |name: String, score: &dyn Fn(&Evaluation) -> Option<Score>| {
        let cells = evaluations.iter().map(|it| cell(score(it).as_ref()));
        std::iter::once(name).chain(cells).collect::<Vec<_>>()
    };
    let all = row("all".to_owned(), &|it| Some(it.summary.score));
    let by_kind = kinds.iter().map(|kind| row(escape(kind), &|it| it.summary.by_type.get(*kind).copied()));
    let caption = "Share of right answers on questions that no run was trained on";
    if kinds.len() <= SHOWN_KINDS {
        let rows: Vec<_> = std::iter::once(all).chain(by_kind).collect();
        return format!(
            "<h2>Accuracy</h2>\n{}",
            table(&format!("{caption}, in all and by kind of question"), &head, &rows)
        );
    }
    format!(
        "<h2>Accuracy</h2>\n{}<details><summary>By kind of question: {} kinds</summary>{}</details>\n",
        table(caption, &head, &[all]),
        kinds.len(),
        table(&format!("{caption}, by kind of question"), &head, &by_kind.collect::<Vec<_>>())
    )
}

fn configuration(runs: &[Run]) -> String {
    let mut html = String::from("<h2>Configuration</h2>\n");
    for run in runs {
        let _ = writeln!(
            html,
            "<details><summary>{}: every key as it was resolved</summary><pre>{}</pre></details>",
            escape(&run.name),
            escape(&run.config)
        );
    }
    if runs.is_empty() { String::new() } else { html }
}

fn bytes(count: f64) -> String {
    match count {
        _ if count >= 1_073_741_824.0 => format!("{:.2} GiB", count / 1_073_741_824.0),
        _ => format!("{:.0} MiB", count / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests;
