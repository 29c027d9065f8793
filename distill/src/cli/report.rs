//! `distill report`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};
use toml::Table;

use super::{CommonArgs, UsageError, print_summary};
use crate::config;
use crate::report::{self, ReportOptions};

/// Arguments of `distill report`, as typed.
#[derive(Clone, Debug, Args, Serialize)]
#[command(after_help = "Examples:
  distill report RUN --out report.html
  distill report RUN_A RUN_B --eval teacher=eval-teacher --eval before=eval-student --out report.html

Evaluations that `distill eval` left in a run's folder are found; --eval adds others as rows.")]
pub struct ReportArgs {
    /// Folders of `distill run`.
    #[arg(value_name = "RUN")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<PathBuf>,
    /// A further evaluation and its name in the table. May be repeated.
    #[arg(long = "eval", value_name = "NAME=DIR")]
    #[serde(rename = "eval", skip_serializing_if = "Vec::is_empty")]
    pub evaluations: Vec<String>,
    /// The heading of the page.
    #[arg(long)]
    pub title: Option<String>,
    /// The file to write; report.html in the run when there is one run.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Configuration and output.
    #[command(flatten)]
    #[serde(skip)]
    pub common: CommonArgs,
}

/// The keys of `distill report`, called as its options.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportKeys {
    runs: Vec<PathBuf>,
    eval: Vec<String>,
    title: String,
    out: Option<PathBuf>,
}

impl Default for ReportKeys {
    fn default() -> Self {
        Self { runs: Vec::new(), eval: Vec::new(), title: report::TITLE.into(), out: None }
    }
}

#[derive(Serialize)]
struct Written {
    report: PathBuf,
    bytes: usize,
    accuracies: Vec<Accuracy>,
}

#[derive(Serialize)]
struct Accuracy {
    name: String,
    accuracy: f64,
}

/// Runs the command.
///
/// # Errors
/// When a folder is not what it is given as, or the file cannot be written.
pub fn run(args: &ReportArgs) -> Result<()> {
    let keys: ReportKeys = config::resolve(&ReportKeys::default(), &args.common, Table::try_from(args)?)?;
    if keys.runs.is_empty() && keys.eval.is_empty() {
        return Err(UsageError(
            "nothing to report\nhint: name folders of `distill run`, or --eval NAME=DIR".into(),
        )
        .into());
    }
    let named = |text: &String| match text.split_once('=') {
        Some((name, dir)) => Ok((name.to_owned(), PathBuf::from(dir))),
        None => Err(UsageError(format!("`--eval {text}` has no name\nhint: --eval teacher={text}"))),
    };
    let out = match (keys.out, keys.runs.as_slice()) {
        (Some(out), _) => out,
        (None, [run]) => run.join("report.html"),
        (None, _) => PathBuf::from("report.html"),
    };
    let evaluations = keys.eval.iter().map(named).collect::<Result<_, _>>()?;
    let options = ReportOptions { title: keys.title, runs: keys.runs, evaluations };
    let report = report::render(&options)?;
    report::write(&report.page, &out)?;
    let accuracies =
        report.accuracies.into_iter().map(|(name, accuracy)| Accuracy { name, accuracy }).collect();
    let written = Written { report: out, bytes: report.page.len(), accuracies };
    print_summary(args.common.json, &written, &text(&written))
}

/// The accuracies as a table, and where the page is.
fn text(written: &Written) -> String {
    let width = written.accuracies.iter().map(|it| it.name.chars().count()).max().unwrap_or(0);
    let line = |it: &Accuracy| format!("{:width$}  {:5.1} %\n", it.name, it.accuracy * 100.0);
    let table: String = written.accuracies.iter().map(line).collect();
    format!("{table}open in a browser: {}", written.report.display())
}
