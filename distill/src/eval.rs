//! Generates answers with a checkpoint, scores them, and writes them down.
//!
//! Every assistant turn of a row is one question, asked with the reference answers of the turns before it.
//! Questions are read in windows, of so many or until their images are large, so memory does not grow with the dataset;
//! inside a window they are sorted by length and packed by a token budget. The files of some benchmarks are read too: `eval/benchmarks`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::DType;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use shared::agreement::Metric;
use shared::dataset::{self, Dataset, DatasetOptions};
use shared::models::{self, Generated, Generation, GenerationDefaults, LoadOptions, Model, Processor};

mod benchmarks;
mod bootstrap;
mod question;
mod table;
mod tally;

pub use bootstrap::{interval, interval_of_means};
pub use table::text_table;

use benchmarks::Items;
use question::{Asked, Question};
use tally::Tally;

/// Rows whose questions are sorted together.
const WINDOW: usize = 256;
/// Or fewer, once their questions hold this much memory: images are megabytes each as a model takes them.
const WINDOW_BYTES: usize = 256 << 20;
/// Rows encoded at a time, on all threads.
const ENCODED_AT_ONCE: usize = 16;

/// What to evaluate, on what, and how.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// The checkout of a student or a teacher.
    pub model: PathBuf,
    /// Datasets with reference answers.
    pub sources: Vec<String>,
    /// How to read them.
    pub dataset: DatasetOptions,
    /// How answers are scored.
    pub metric: Metric,
    /// At most so many rows.
    pub limit: Option<usize>,
    /// At most so many tokens an answer.
    pub max_new_tokens: usize,
    /// Question tokens of one batch; a longer question runs alone.
    pub max_tokens_per_batch: usize,
    /// auto, cpu or cuda:N.
    pub device: String,
    /// Where `predictions.jsonl` and `summary.json` go.
    pub out: PathBuf,
}

/// One answered question, a line of `predictions.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The row's own id.
    pub id: Option<String>,
    /// The file of the row.
    pub source: String,
    /// The row's index in it.
    pub row: u64,
    /// Which answer of the row, from 0.
    pub turn: usize,
    /// The kind of question, from the row's id.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The last question.
    pub question: String,
    /// The files of its images.
    pub images: Vec<String>,
    /// The reference answer.
    pub reference: String,
    /// The generated answer.
    pub prediction: String,
    /// Whether the metric accepts it; false where it is graded elsewhere.
    pub correct: bool,
}

/// Questions and right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Questions asked.
    pub questions: usize,
    /// Answers accepted.
    pub correct: usize,
    /// `correct / questions`, 0 when nothing was asked.
    pub accuracy: f64,
}

impl Score {
    fn add(&mut self, correct: bool) {
        self.questions += 1;
        self.correct += usize::from(correct);
        self.accuracy = self.correct as f64 / self.questions as f64;
    }
}

/// The result, as `summary.json` and `--json` have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The checkpoint, as given.
    pub model: String,
    /// The datasets, as given.
    pub data: Vec<String>,
    /// How answers were scored.
    pub metric: Metric,
    /// Rows that were evaluated.
    pub samples: usize,
    /// Rows that could not be: a broken image, no answer. They count neither way.
    pub quarantined: usize,
    /// All questions together.
    #[serde(flatten)]
    pub score: Score,
    /// The 95 % interval of the accuracy by a bootstrap over the questions; absent when none was graded here.
    #[serde(default)]
    pub interval: Option<[f64; 2]>,
    /// Answers that are graded elsewhere.
    #[serde(default)]
    pub submitted: usize,
    /// The files that they are in: `submission.json`, or one for each file of questions.
    #[serde(default)]
    pub submissions: Vec<String>,
    /// The same by kind of question, where the rows' ids tell kinds apart.
    pub by_type: BTreeMap<String, Score>,
    /// Tokens of all answers, those that end them included.
    pub generated_tokens: usize,
    /// Time from the first row to the last answer.
    pub seconds: f64,
    /// Question and answer tokens through the model a second.
    pub tokens_per_second: f64,
    /// The most memory the process has held.
    pub peak_rss_bytes: u64,
}

/// What the caller shows while it runs.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// Questions answered so far, and how many bytes of the dataset they came from, of how many.
    Answered(Score, (u64, u64)),
    /// A row that was set aside, with the reason.
    Quarantined(&'a str),
}

/// The checkpoint of what a user points at: a checkpoint itself, or a run's folder with a finished student.
///
/// # Errors
/// When the run has not come to its student.
pub fn checkpoint_of(path: &Path) -> Result<PathBuf> {
    let is_run = path.join("config.toml").is_file() && !path.join("config.json").is_file();
    let student = path.join("student");
    match (is_run, student.join("config.json").is_file()) {
        (false, _) => Ok(path.to_owned()),
        (true, true) => Ok(student),
        (true, false) => bail!(
            "`{}` is a run without a finished student\nhint: `distill run` with the same arguments continues it, \
             or `distill export --step N` writes a checkpoint's student",
            path.display()
        ),
    }
}

/// Runs an evaluation. `summary.json` is written last, so a folder that has it is complete.
///
/// # Errors
/// When the checkpoint or a dataset cannot be read, nothing could be asked, or `out` cannot be written.
pub fn evaluate(options: &EvalOptions, progress: &mut dyn FnMut(&Progress)) -> Result<Summary> {
    let mut rows = Rows::open(options)?;
    let answerer = Answerer::load(options)?;
    fs::create_dir_all(&options.out).with_context(|| format!("cannot create `{}`", options.out.display()))?;
    let mut tally = Tally::new(options)?;
    let started = Instant::now();
    let (mut read, mut window) = (Vec::with_capacity(ENCODED_AT_ONCE), Window::default());
    let mut rows_left = options.limit.unwrap_or(usize::MAX);
    while rows_left > 0 {
        let row = rows.next_row()?;
        rows_left = if row.is_some() { rows_left - 1 } else { 0 };
        match row {
            Some(Ok(questions)) => read.push(questions),
            Some(Err(reason)) => tally.set_aside(&reason, progress),
            None => {}
        }
        if read.len() == ENCODED_AT_ONCE || rows_left == 0 {
            answerer.encode(std::mem::take(&mut read), &mut window, &mut tally, progress);
        }
        if window.is_full() || rows_left == 0 {
            answerer.answer(std::mem::take(&mut window), &mut tally)?;
            progress(&Progress::Answered(tally.score, rows.progress()));
        }
    }
    tally.finish(options, started.elapsed().as_secs_f64())
}

/// Where the questions come from.
enum Rows {
    Dataset(Box<Dataset>),
    /// A benchmark, how many rows were read, and its bytes.
    Benchmark(Items, u64),
}

impl Rows {
    fn open(options: &EvalOptions) -> Result<Self> {
        Ok(match benchmarks::open_all(&options.sources, options.dataset.image_root.as_deref())? {
            Some(items) => Self::Benchmark(items, 0),
            None => Self::Dataset(Box::new(dataset::open(&options.sources, &options.dataset)?)),
        })
    }

    /// The questions of the next row, or why it has none.
    fn next_row(&mut self) -> Result<Option<Result<Vec<Question>, String>>> {
        Ok(match self {
            Self::Dataset(rows) => {
                let row = rows.next().transpose()?;
                row.map(|row| row.map_err(|bad| bad.to_string()).and_then(question::of))
            }
            Self::Benchmark(items, count) => {
                *count += 1;
                items.next().map(|item| item.map(question::of_benchmark))
            }
        })
    }

    /// How much is read, of how much; a benchmark's end is not known before it comes.
    fn progress(&self) -> (u64, u64) {
        match self {
            Self::Dataset(rows) => rows.progress(),
            Self::Benchmark(_, count) => (*count, *count),
        }
    }
}

/// Questions that are sorted and answered together.
#[derive(Default)]
struct Window {
    questions: Vec<Asked>,
    num_rows: usize,
    num_bytes: usize,
}

impl Window {
    fn add(&mut self, row: Vec<Asked>) {
        self.num_rows += 1;
        self.num_bytes += row.iter().map(|question| question.encoded.num_bytes()).sum::<usize>();
        self.questions.extend(row);
    }

    fn is_full(&self) -> bool {
        self.num_rows >= WINDOW || self.num_bytes >= WINDOW_BYTES
    }
}

/// The model with what it needs to answer.
struct Answerer<'a> {
    options: &'a EvalOptions,
    model: Model,
    processor: Processor,
    /// As the checkpoint's generation_config.json says; transformers' greedy generation has it too.
    repetition_penalty: f64,
}

impl<'a> Answerer<'a> {
    fn load(options: &'a EvalOptions) -> Result<Self> {
        let device = models::device(&options.device)?;
        let dtype = if device.is_cpu() { DType::F32 } else { DType::BF16 };
        let load = LoadOptions::frozen(device, dtype);
        let processor = Processor::load(&options.model)?;
        let repetition_penalty = GenerationDefaults::load(&options.model)?.repetition_penalty;
        Ok(Self { options, model: models::load(&options.model, &load)?, processor, repetition_penalty })
    }

    /// Encodes the questions of some rows; a row with one that cannot be asked is set aside.
    fn encode(
        &self,
        rows: Vec<Vec<Question>>,
        window: &mut Window,
        tally: &mut Tally,
        progress: &mut dyn FnMut(&Progress),
    ) {
        let encode = |row: Vec<Question>| row.into_iter().map(|it| it.encode(&self.processor)).collect();
        let encoded: Vec<Result<Vec<Asked>, String>> = rows.into_par_iter().map(encode).collect();
        for row in encoded {
            match row {
                Ok(questions) => {
                    tally.samples += 1;
                    window.add(questions);
                }
                Err(reason) => tally.set_aside(&reason, progress),
            }
        }
    }

    /// Answers the questions of a window, in batches of like length, and writes them in their own order.
    fn answer(&self, window: Window, tally: &mut Tally) -> Result<()> {
        let asked = window.questions;
        let lengths: Vec<usize> = asked.iter().map(Asked::num_tokens).collect();
        let mut answers = vec![String::new(); asked.len()];
        for batch in models::in_like_lengths(&lengths, self.options.max_tokens_per_batch) {
            let samples: Vec<_> = batch.iter().map(|&index| &asked[index].encoded).collect();
            let generation = Generation {
                max_new_tokens: self.options.max_new_tokens,
                eos: self.processor.eos_ids(),
                repetition_penalty: self.repetition_penalty,
                sampling: None,
            };
            let generated = models::generate(&self.model, &samples, &vec![0; samples.len()], &generation)?;
            for (&index, Generated { tokens, .. }) in batch.iter().zip(&generated) {
                answers[index] = self.processor.tokenizer().decode(tokens)?.trim().to_owned();
                tally.tokens += asked[index].num_tokens() + tokens.len();
                tally.generated_tokens += tokens.len();
            }
        }
        for (question, answer) in asked.into_iter().zip(answers) {
            let is_graded = question.is_graded();
            tally.add(question.answered(answer, self.options.metric), is_graded)?;
        }
        Ok(())
    }
}
