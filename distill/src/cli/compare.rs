//! `distill compare`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use toml::{Table, Value};

use super::{AfterSummary, CommonArgs, on_interrupt, print_summary};
use crate::compare::{self, Event, GridConfig, INTERRUPTED};
use crate::config;

/// Arguments of `distill compare`, as typed.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  distill compare --config grid.toml
  distill compare --config grid.toml --set seeds=[0,1,2,3,4] --set jobs=2
  distill compare --config common.toml --config methods.toml

A grid, in TOML:
  out = \"grid\"
  seeds = [0, 1, 2]
  baseline = \"sft\"
  [[teachers]]
  name = \"large\"
  cache = \"cache\"
  [[students]]
  name = \"small\"
  path = \"student\"
  [[variants]]
  name = \"sft\"
  method = \"sft\"
  [[variants]]
  name = \"genrecal\"
  [run]
  data.sources = [\"train.json\"]
  [eval]
  data = [\"test.json\"]

[run] and [[variants]] take the keys of `distill run`. A variant may name its `teachers` and `students`; one whose \
method has no teacher runs once. Every cell is a normal run in OUT/cells, for `distill report` and `distill \
export`; grids with the same `cells = DIR` share those that they have in common. The same command again continues. \
Writes compare.json, compare.md and compare.html.")]
pub struct CompareArgs {
    /// The grid's folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Configuration and output.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Runs the command.
///
/// # Errors
/// When the grid is no grid, the user interrupted, or a cell failed.
pub fn run(args: &CompareArgs) -> Result<()> {
    let out = args.out.iter().map(|out| ("out".to_owned(), Value::String(out.to_string_lossy().into())));
    let config: GridConfig = config::resolve(&GridConfig::default(), &args.common, out.collect::<Table>())?;
    config.validate()?;
    on_interrupt(&INTERRUPTED, "stopping the runs under way after their step");
    let bar = ProgressBar::new(0);
    // The template is a constant: were it wrong, the plain default would show.
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos} of {len} cells, about {eta} left") {
        bar.set_style(style);
    }
    let comparison = compare::compare(&config, &|event| show(&bar, event))?;
    bar.finish_and_clear();
    let place = format!("open in a browser: {}\n", config.out.join("compare.html").display());
    print_summary(args.common.json, &comparison, &(compare::text_table(&comparison) + &place))?;
    match comparison.failures.len() {
        0 => Ok(()),
        count => Err(AfterSummary(format!(
            "{count} cells failed\nhint: the same command tries them again, and keeps the others"
        ))
        .into()),
    }
}

fn show(bar: &ProgressBar, event: &Event) {
    let line = |text: String| bar.suspend(|| shared::say!("{text}"));
    match event {
        Event::Found(done, all) => {
            bar.set_length(*all as u64);
            bar.set_position(*done as u64);
            bar.reset_eta();
            line(format!("{done} of {all} cells are done"));
        }
        Event::Jobs(1) => {}
        Event::Jobs(jobs) => line(format!("{jobs} cells at once")),
        Event::Begun(name) => line(format!("begun: {name}")),
        Event::Done(name) => {
            bar.inc(1);
            line(format!("done: {name}"));
        }
        Event::Failed(failure) => line(format!("failed: {}: {}", failure.cell, failure.reason)),
    }
}
