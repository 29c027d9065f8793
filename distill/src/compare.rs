//! A grid of runs: teachers x students x variants x seeds, each cell a normal run with its evaluation, and what they say together.
//!
//! ```text
//! grid.toml -> GridConfig -> Cells -> OUT/cells/TEACHER/STUDENT/VARIANT/seed-N   (distill run, distill eval)
//!                                 \-> OUT/before/STUDENT                         (the student as it came)
//! their summaries and predictions -> Comparison -> OUT/compare.{json,md,html}, *.svg
//! ```
//!
//! Each cell runs in a process of its own, so its memory is its own and a failed one takes no other along. Everything
//! that is done stays done: the same command again continues, and a grid with more seeds or variants only runs those.

use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};

mod cell;
mod config;
mod page;
mod pool;
mod statistics;
mod table;
mod usage;

pub use config::{Asked, GridConfig, NamedStudent, NamedTeacher, Variant};
pub use pool::Event;
pub use statistics::{Comparison, Failure, Gain, Row};
pub use usage::UseCurve;

/// The interrupt that a user sends: the cells under way are told to stop, and no other begins.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs what is left of the grid, and writes its tables.
///
/// A failed cell is listed and the others go on; the tables then say of how many seeds each row is.
///
/// # Errors
/// When a cell's keys are no run's, the folder cannot be written, the user interrupted, or no cell ended well.
pub fn compare(config: &GridConfig, progress: &(dyn Fn(&Event) + Sync)) -> Result<Comparison> {
    let cells = cell::Cells::of(config)?;
    std::fs::create_dir_all(&config.out)
        .with_context(|| format!("cannot write `{}`", config.out.display()))?;
    let failures = pool::run(&cells.all, config.jobs, progress)?;
    if INTERRUPTED.load(std::sync::atomic::Ordering::Relaxed) {
        bail!("interrupted; what is done is kept\nhint: the same command continues");
    }
    let comparison = statistics::compare(&cells, &failures)?;
    let write = |name: &str, text: &str| {
        let path = config.out.join(name);
        crate::train::checkpoint::publish_file(&path, text.as_bytes())
    };
    write("compare.md", &table::markdown(&comparison))?;
    let figures = page::Figures::of(&comparison);
    write("compare.html", &page::render(&config.title, &comparison, &figures))?;
    for (name, file) in figures.files() {
        write(name, &file)?;
    }
    write("compare.json", &(serde_json::to_string_pretty(&comparison)? + "\n"))?;
    Ok(comparison)
}

/// The comparison as a table for a terminal.
#[must_use]
pub fn text_table(comparison: &Comparison) -> String {
    table::text(comparison)
}
