//! `extract answers`: the teacher's own responses to a dataset's questions, kept where they agree with the reference answer.
//!
//! ```text
//! rows -> questions -> try 1 -> agrees? keep : try 2 ... try n -> keep the original, marked -> FILE.jsonl
//! ```
//!
//! The paper (arXiv 2506.15681) replaces short answers by the teacher's correct, more detailed ones and is silent about
//! how. Here every assistant turn is asked with the reference answers of the turns before it; the first try generates as
//! the checkpoint's authors would, and only what disagreed is tried again, sampled. The output is a dataset in LLaVA's
//! layout, of which `provenance` says row by row where each answer came from.

use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use rayon::prelude::*;
use serde::Serialize;
use shared::dataset::{Dataset, Record};
use shared::memory::{self, peak_rss_bytes};
use shared::models::{self, GenerationDefaults, LoadOptions, Processor};

use crate::cli::AnswersArgs;
use crate::error::Interrupted;
use crate::run::open_dataset;
use crate::sample::identify;
use crate::stop::{self, Stop, StopReason};

mod decide;
mod journal;
mod respond;
mod row;

pub use decide::{AnswersConfig, AnswersSettings, Sample};

use journal::Journal;
use respond::{Asked, Responder};

/// Rows that are asked together.
const WINDOW: usize = 128;

/// What the command reports. `rows` to `at_limit` are of the whole file, the rest is of this run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Rows written.
    pub rows: u64,
    /// Answers that are the teacher's.
    pub replaced: u64,
    /// Answers that stayed as they were.
    pub original: u64,
    /// Of these, those whose last response ran into the limit of tokens.
    pub at_limit: u64,
    /// Rows that could not be asked.
    pub quarantined: u64,
    /// Tokens of all responses, kept or not.
    pub generated_tokens: u64,
    /// From start to end, loading included.
    pub seconds: f64,
    /// The most resident memory of this process.
    pub peak_rss_bytes: Option<u64>,
    /// What the file was made from.
    pub fingerprint: String,
    /// Rows that the file had when the run began.
    pub resumed_from: u64,
}

/// Runs the command.
///
/// # Errors
/// When something of the teacher or the dataset cannot be used, too many rows are bad, a signal ended the run, or the
/// file cannot be written. Rows that were written stay, and the same command continues.
pub fn answers(args: &AnswersArgs) -> Result<Summary> {
    let config = AnswersConfig::decide(args)?;
    let started = Instant::now();
    memory::keep_freed();
    stop::on_signals();
    // All that can be wrong, before the weights are read.
    let processor = Processor::load(&config.run.teacher)?;
    let device = models::device(&config.run.settings.teacher.device)?;
    let defaults = GenerationDefaults::load(&config.run.teacher)?;
    let dataset = open_dataset(&config.run)?;
    let choice = config.choice(&defaults)?;
    let fingerprint = choice.fingerprint(&config, &processor, &dataset)?.digest().to_string();
    let mut journal = Journal::open(&config.run.out, &fingerprint)?;
    let mut summary = Summary { fingerprint, resumed_from: journal.counts.rows, ..Summary::default() };
    if !journal.is_complete() {
        let responder = Load { config: &config, processor: &processor, device: &device, choice };
        write(responder, dataset, &mut journal, &mut summary)?;
        journal.finish()?;
    }
    let counts = journal.counts;
    (summary.rows, summary.replaced) = (counts.rows, counts.replaced);
    (summary.original, summary.at_limit) = (counts.original, counts.at_limit);
    summary.seconds = started.elapsed().as_secs_f64();
    summary.peak_rss_bytes = peak_rss_bytes();
    Ok(summary)
}

/// A responder whose weights wait until there is something to ask.
struct Load<'a> {
    config: &'a AnswersConfig,
    processor: &'a Processor,
    device: &'a Device,
    choice: decide::Choice,
}

impl<'a> Load<'a> {
    fn load(&self) -> Result<Responder<'a>> {
        let dtype = if self.device.is_cpu() { DType::F32 } else { DType::BF16 };
        let gguf = self.config.run.settings.teacher.gguf.clone();
        let options = LoadOptions { gguf, ..LoadOptions::frozen(self.device.clone(), dtype) };
        let model = models::load(&self.config.run.teacher, &options)?;
        Ok(Responder { config: self.config, processor: self.processor, model, choice: self.choice })
    }
}

/// Asks what the journal does not have yet, window by window.
fn write(load: Load, mut dataset: Dataset, journal: &mut Journal, summary: &mut Summary) -> Result<()> {
    let (stop, settings) = (Stop::default(), &load.config.run.settings);
    let mut responder = None;
    let (mut read, mut is_open) = (0, true);
    while is_open {
        let mut window: Vec<Record> = Vec::with_capacity(WINDOW);
        while window.len() < WINDOW && is_open {
            match dataset.next().transpose()? {
                None => is_open = false,
                Some(Ok(record)) if journal.has(&record) => read += 1,
                Some(Ok(record)) => {
                    read += 1;
                    window.push(record);
                }
                Some(Err(bad)) => {
                    read += 1;
                    set_aside(&bad, summary);
                }
            }
        }
        let asked: Vec<Result<Asked, String>> =
            window.into_par_iter().map(|record| ask(record, load.processor)).collect();
        let mut rows = Vec::with_capacity(asked.len());
        for row in asked {
            match row {
                Ok(row) => rows.push(row),
                Err(reason) => set_aside(&reason, summary),
            }
        }
        if settings.data.max_bad.is_spent(summary.quarantined, read, !is_open) {
            let (bad, budget) = (summary.quarantined, settings.data.max_bad);
            bail!(
                "{bad} of {read} rows are bad, more than the budget of {budget}\nhint: the reasons are above; mend the \
                 dataset or raise `--max-bad`, then run the same command"
            );
        }
        if !rows.is_empty() {
            let responder = match &mut responder {
                Some(responder) => responder,
                none => none.insert(load.load()?),
            };
            let Some(rows) = responder.answer(rows, &stop, &mut summary.generated_tokens)? else { break };
            journal.append(&rows)?;
            shared::say!("{} rows, {} answers of the teacher", journal.counts.rows, journal.counts.replaced);
        }
    }
    match stop.reason() {
        Some(StopReason::Interrupted) => Err(Interrupted { samples: journal.counts.rows }.into()),
        _ => Ok(()),
    }
}

/// A row's questions as the teacher takes them; why not, otherwise.
fn ask(record: Record, processor: &Processor) -> Result<Asked, String> {
    let place = format!("`{}` row {}", record.source, record.row);
    let key = identify(record.clone()).map_err(|bad| format!("{place}: {}", bad.reason))?.key;
    let questions = record.questions();
    if questions.is_empty() {
        return Err(format!("{place}: no answer to compare with"));
    }
    let encoded = questions.iter().map(|question| processor.encode_asked(question)).collect::<Result<_, _>>();
    let encoded = encoded.map_err(|reason: String| format!("{place}: {reason}"))?;
    row::check(&record).map_err(|reason| format!("{place}: {reason}"))?;
    Ok(Asked { record, key, questions, encoded })
}

fn set_aside(reason: &dyn fmt::Display, summary: &mut Summary) {
    summary.quarantined += 1;
    shared::say!("set aside: {reason}");
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} rows: {} answers are the teacher's, {} stayed as they were ({} responses ran into the limit)",
            self.rows, self.replaced, self.original, self.at_limit
        )?;
        write!(
            f,
            "{} rows set aside, {} tokens generated in {:.0} s",
            self.quarantined, self.generated_tokens, self.seconds
        )
    }
}

/// The context of an error about the output.
fn cannot_write<T>(outcome: std::io::Result<T>, path: &std::path::Path) -> Result<T> {
    outcome.with_context(|| {
        format!("cannot write `{}`\nhint: check the folder's permissions and free space", path.display())
    })
}
