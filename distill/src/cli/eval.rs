//! `distill eval`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use shared::agreement::Metric;
use shared::dataset::DatasetOptions;
use shared::models::{DeviceName, checkout};
use toml::Table;

use super::{CommonArgs, UsageError, print_summary};
use crate::config;
use crate::eval::{self, EvalOptions, Progress};

/// Arguments of `distill eval`, as typed.
#[derive(Clone, Debug, Args, Serialize)]
#[command(after_help = "Examples:
  distill eval --model RUN --data test.json --image-root images
  distill eval --model CHECKPOINT --data test.json --metric relaxed --out results --json
  distill eval --model CHECKPOINT --data mmbench_dev_en.tsv

Reads the datasets of `distill run`, and as published MMBench (TSV), MMMU and MMMU-Pro (Parquet), ChartQA, MM-Vet \
and plain VQA (JSON). Answers are the model's likeliest tokens, with the repetition penalty of its \
generation_config.json. Writes predictions.jsonl, summary.json with the accuracy and its 95 % interval, and \
submission.json for answers that are graded elsewhere (MM-Vet, hidden test splits); of several files each has its \
submission-NAME.json. The table has a line for each \
kind of question: what stands before the number in its row's id, as in `count/0012` or `count-12`.")]
pub struct EvalArgs {
    /// The checkpoint: a student or a teacher as on the Hugging Face hub, the name of one there (`org/name@revision`, the revision optional), or
    /// a finished run's folder.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// The questions, with reference answers. May be repeated.
    #[arg(long, value_name = "SRC")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<String>,
    /// The folder that image paths in the data are relative to.
    #[arg(long, value_name = "DIR")]
    pub image_root: Option<PathBuf>,
    /// Put image placeholders in front where the data has images but no placeholders.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub prepend_image: bool,
    /// When an answer is right: auto (choice where the reference is an option letter, else exact), exact, relaxed (numbers
    /// within 5 %), choice, contains, or conclusion (the reference is what the last statement says) [default: auto].
    #[arg(long)]
    pub metric: Option<Metric>,
    /// Only the first N rows.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// An answer has at most N tokens [default: 64].
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    /// Questions run together up to N tokens [default: 4096].
    #[arg(long, value_name = "N")]
    pub max_tokens_per_batch: Option<usize>,
    /// auto, cpu or cuda:N [default: auto].
    #[arg(long)]
    pub device: Option<String>,
    /// Where the results go; RUN/eval for a run, else eval-NAME in the current folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Configuration and output.
    #[command(flatten)]
    #[serde(skip)]
    pub common: CommonArgs,
}

/// The keys of `distill eval`, called as its options.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvalKeys {
    #[serde(default)]
    model: PathBuf,
    data: Vec<String>,
    image_root: Option<PathBuf>,
    prepend_image: bool,
    metric: Metric,
    limit: Option<usize>,
    max_new_tokens: usize,
    max_tokens_per_batch: usize,
    device: String,
    out: Option<PathBuf>,
}

impl Default for EvalKeys {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            data: Vec::new(),
            image_root: None,
            prepend_image: false,
            metric: Metric::Auto,
            limit: None,
            max_new_tokens: 64,
            max_tokens_per_batch: 4096,
            device: "auto".into(),
            out: None,
        }
    }
}

impl EvalKeys {
    /// What was decided: options over `--set` over the file.
    fn decide(args: &EvalArgs) -> Result<Self> {
        let keys: Self = config::resolve(&Self::default(), &args.common, Table::try_from(args)?)?;
        let missing = match (keys.model.as_os_str().is_empty(), keys.data.is_empty()) {
            (true, _) => "no model given\nhint: --model DIR, a checkpoint or a finished run",
            (false, true) => "no questions given\nhint: --data SRC, a dataset with reference answers",
            (false, false) => {
                keys.device.parse::<DeviceName>().map_err(|error| UsageError(error.to_string()))?;
                return Ok(keys);
            }
        };
        Err(UsageError(missing.into()).into())
    }

    /// Where the results go.
    fn folder(&self, checkpoint: &std::path::Path) -> PathBuf {
        let name = || self.model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match &self.out {
            Some(out) => out.clone(),
            None if checkpoint != self.model && checkpoint.starts_with(&self.model) => {
                self.model.join("eval")
            }
            None => PathBuf::from(format!("eval-{}", name())),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the checkpoint or the data cannot be used, or the results not be written.
pub fn run(args: &EvalArgs) -> Result<()> {
    let keys = EvalKeys::decide(args)?;
    let checkpoint = eval::checkpoint_of(&checkout(&keys.model)?)?;
    let options = EvalOptions {
        out: keys.folder(&checkpoint),
        model: checkpoint,
        sources: keys.data,
        dataset: DatasetOptions {
            image_root: keys.image_root,
            prepend_image: keys.prepend_image,
            ..DatasetOptions::default()
        },
        metric: keys.metric,
        limit: keys.limit,
        max_new_tokens: keys.max_new_tokens,
        max_tokens_per_batch: keys.max_tokens_per_batch,
        device: keys.device,
    };
    let bar = ProgressBar::new(0);
    // The template is a constant: were it wrong, the plain default would show.
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {msg}, about {eta} left") {
        bar.set_style(style);
    }
    let summary = eval::evaluate(&options, &mut |event| match event {
        Progress::Quarantined(reason) => bar.suspend(|| shared::say!("set aside: {reason}")),
        Progress::Answered(score, (done, total)) => {
            let percent = score.accuracy * 100.0;
            let line = format!("{} questions, {percent:.1} % right", score.questions);
            bar.set_length(*total);
            bar.set_position(*done);
            bar.set_message(line.clone());
            if bar.is_hidden() && done < total {
                shared::say!("{line}");
            }
        }
    })?;
    bar.finish_and_clear();
    let place = format!("written to {}\n", options.out.display());
    print_summary(args.common.json, &summary, &(eval::text_table(&summary) + &place))
}
