//! Progress for a person: a bar on a terminal, else a line now and then; always on stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::Row;

/// Without a terminal, the time between lines.
pub const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress of one stage.
pub struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    last_line: Instant,
    first_step: usize,
    started: Instant,
}

impl Progress {
    /// A bar over `num_steps` steps of which `done` are behind us.
    #[must_use]
    pub fn new(name: &str, num_steps: usize, done: usize) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(num_steps as u64), target);
        let template = "{prefix:>8} {bar:30} {pos}/{len} {per_sec} eta {eta} {msg}";
        // A template that does not parse costs the looks, not the run.
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_prefix(name.to_owned());
        bar.set_position(done as u64);
        bar.reset_eta();
        let now = Instant::now();
        Self { bar, is_terminal, last_line: now, first_step: done, started: now }
    }

    /// One step is done.
    pub fn step(&mut self, stage_step: usize, row: &Row) {
        let text = format!(
            "loss {:.4} · lr {:.2e} · {:.0} tokens/s · {} MiB",
            row.loss,
            row.lr,
            row.tokens_per_second,
            row.peak_rss_bytes >> 20
        );
        self.bar.set_position(stage_step as u64);
        self.bar.set_message(text.clone());
        let num_steps = self.bar.length().unwrap_or(0) as usize;
        if !self.is_terminal && (self.last_line.elapsed() >= LINE_EVERY || stage_step == num_steps) {
            self.last_line = Instant::now();
            let per_step =
                self.started.elapsed().as_secs_f64() / (stage_step - self.first_step).max(1) as f64;
            let eta = per_step * (num_steps - stage_step) as f64;
            shared::say!("{} {stage_step}/{num_steps} · {text} · eta {eta:.0} s", row.stage.as_str());
        }
    }

    /// A line above the bar.
    pub fn note(&self, text: &str) {
        self.bar.suspend(|| shared::say!("{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
